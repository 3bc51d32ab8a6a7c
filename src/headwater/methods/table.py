"""The table of methods: what is computed of a training image and of a query, and a score rule.

A method is one row, with all that is said of it anywhere. Paths are generators of
`features.probes`, deltas functions of `features.guidance`, rules rows of `attribution.scores`; the
scorer, a name of `attribution.scorers`, joins them. Methods of equal train sides share an index.
"""

from __future__ import annotations

from typing import Any

from headwater.features.spec import DRAWS, Side
from headwater.methods.row import OWN, QUESTIONS, Cost, Method

_PICTURE, _OUTPUT = ("image", "patch"), ("contribution", "loss")
_NOISED, _INVERTED = Side("noising", "dsm"), Side("inversion", "dps")
# Of the published Concept-TRAK code (TRAIN_GUIDANCE_SCALE), whose fifty steps ten shared ones stand
# for; the paper's text names none.
_GUIDED = Side("inversion", "dps", guidance=7.5)

# Of unlearning: losses at four timesteps, of each training image forward, of each draw forward and
# back; a concept's draws are pictures, made in 25 steps with guidance.
_LOSSES = 4
_UNLEARNING = (
    ("image", Cost(2 * _LOSSES, DRAWS, _LOSSES)),
    ("concept", Cost(2 * _LOSSES + 2 * 25, DRAWS, _LOSSES)),
)
# Of MUCS: each training image once a draw, besides the steps of forgetting (a concept's draws are
# pictures). Of GUDA: each draw under the model, and again without each group.
_MUCS = (("image", Cost(0, DRAWS, DRAWS)), ("concept", Cost(2 * 25, DRAWS, DRAWS)))
_LEVELS = 20
# Of presence: losses of each training image under captions, at three timesteps.
_PRESENCE = 3
# Of a recorded training: each step again, its gradient with a graph, and back through that.
_METAGRADIENT = tuple(
    (kind, Cost(OWN.get(kind, _NOISED).units(), DRAWS, shown=8))
    for kind in (*_OUTPUT, "concept", "image")
)
_SQUARES: dict[str, Any] = {"normalise": "over_time", "measure": "strength"}
_UNIT_SQUARES = _SQUARES | {"normalise": "probe"}


def _on_images(name: str, paper: str, delta: str, rule: str = "trak", **options: Any) -> Method:
    """A method that asks the same of a training image and of the query's image."""
    side = Side("noising", delta)
    return Method(name, paper, side, side, rule, (*_PICTURE, "step", *_OUTPUT), **options)


def _influence(name: str, paper: str) -> Method:
    """Influence by a curvature of that name: a dot product in its metric."""
    own: Any = dict(curvature=name, damping=0.01)
    takes = tuple(dict.fromkeys((*_OUTPUT, *OWN, *_PICTURE, "step")))
    return Method(name, paper, _NOISED, _NOISED, "dot", takes, **own)


def _influence_and_presence(name: str, paper: str) -> Method:
    """The influence by EK-FAC with what the model sees in each image."""
    kind = "contribution"
    own: Any = dict(
        curvature="ekfac",
        damping=0.001,
        scorer="with_presence",
        measure="influence with presence",
        one_model=True,
        sooner="ekfac",  # what the model sees in each image is still to come
        costs=((kind, Cost(OWN[kind].units(), DRAWS, unnamed=_PRESENCE)),),
    )
    return Method(name, paper, _NOISED, None, "dot", (kind,), **own)


def _exact_influence(name: str, paper: str, curvature: str) -> Method:
    """The same without a projection: a pass over the training images for each question."""
    side = _NOISED
    cost = [(kind, OWN.get(kind, side).units()) for kind in (*_OUTPUT, "concept", "image")]
    own: Any = dict(
        curvature=curvature,
        damping=0.01,
        costs=tuple((kind, Cost(units, DRAWS, side.units())) for kind, units in cost),
        scorer="exact",
    )
    takes = (*_OUTPUT, "concept", "image")
    return Method(name, paper, side, side, "dot", takes, **own)


def _concept_trak(
    name: str, paper: str, side: Side, normalise: str = "none", **options: Any
) -> Method:
    """Concept-TRAK with this train side. Asked of an image, plain noising would be TRAK."""
    if side == _NOISED:
        return Method(name, paper, side, None, "trak", tuple(OWN), normalise, **options)
    options |= {"part": Side("noising", "concept")}
    return Method(name, paper, side, side, "trak", (*OWN, *_PICTURE), normalise, **options)


def _concept_d_trak(name: str, concept: Side, **options: Any) -> Method:
    """Features of D-TRAK, asked for a concept."""
    side = Side("noising", "square")
    takes = ("concept", *_OUTPUT) if concept.gradient else ("concept",)
    return Method(name, "ours", side, None, "trak", takes, concept=concept, **options)


def _similarity(name: str, path: str, rule: str, takes: tuple[str, ...]) -> Method:
    """A method that compares pictures, and asks nothing of the model."""
    own: Any = dict(scorer="similarity", measure="similarity")
    return Method(name, "similarity", Side(path), Side(path), rule, takes, **own)


# What an index is built for where nothing is said; chosen, as is the damping of its row, by a rule
# that was written before it was applied (docs/results.md, "A rule for the default").
DEFAULT_METHOD = "ekfac-presence"

METHODS = {
    method.name: method
    for method in (
        _concept_trak("concept-trak", "Park 2025", _GUIDED, "probe"),
        _concept_trak("concept-trak-a", "Park 2025, ablation", _NOISED),
        _concept_trak("concept-trak-b", "Park 2025, ablation", Side("noising", "dps")),
        _concept_trak("concept-trak-c", "Park 2025, ablation", _GUIDED),
        _concept_trak("concept-trak-d", "Park 2025", _GUIDED, "probe", alias_of="concept-trak"),
        _concept_trak("concept-trak-unguided", "Park 2025, variant", _INVERTED, "probe"),
        _concept_trak("concept-trak-c-unguided", "Park 2025, variant", _INVERTED),
        _on_images("trak", "Park 2023", "dsm"),
        _on_images("d-trak", "Zheng 2024", "square"),
        _on_images("d-trak-square", "Zheng 2024", "square", alias_of="d-trak"),
        _on_images("d-trak-mean", "Zheng 2024", "mean"),
        _on_images("d-trak-l1", "Zheng 2024", "l1"),
        _on_images("d-trak-l2", "Zheng 2024", "l2"),
        _on_images("d-trak-linf", "Zheng 2024", "linf"),
        _on_images("d-trak-weighted", "Zheng 2024", "weighted"),
        _on_images("das", "Lin 2025, eq. 18", "random", "das", **_SQUARES),
        _on_images("das-l1", "Lin 2025, l1 norm", "l1", "das-l1", **_SQUARES),
        _on_images("das-code", "Lin 2025, their code", "mean", "das-code", **_UNIT_SQUARES),
        _on_images("das-concept-trak", "Park 2025, baseline", "l1", "das-concept-trak"),
        Method(
            "journey-trak",
            "Georgiev 2023",
            _NOISED,
            Side("renoised", "dsm"),
            "trak",
            (*_PICTURE, "step", "journey", *_OUTPUT),
        ),
        _influence("ekfac", "Grosse 2023, EK-FAC"),
        _influence("kfac", "Mlodozeniec 2025"),
        _influence_and_presence("ekfac-presence", "Grosse 2023, Li 2023"),
        _exact_influence("ekfac-exact", "Grosse 2023, EK-FAC", "ekfac"),
        _exact_influence("kfac-exact", "Mlodozeniec 2025", "kfac"),
        Method(
            "metagradient",
            "Ilyas 2025, MAGIC",
            None,
            _NOISED,
            "metagradient",
            (*_OUTPUT, "concept", "image"),
            scorer="metagradient",
            one_model=True,
            recorded=True,
            costs=_METAGRADIENT,
        ),
        _on_images("gradient-dot", "Charpiat 2019", "dsm", "dot"),
        _on_images("gradient-cosine", "Charpiat 2019", "dsm", "cosine"),
        _on_images("tracin", "Pruthi 2020", "dsm", "dot", checkpoints=2),
        _on_images("gas", "Hammoudeh 2022", "dsm", "cosine", checkpoints=2),
        _on_images("relative-influence", "Barshan 2020", "dsm", "relative"),
        _on_images("renormalised-influence", "Hammoudeh 2022", "dsm", "renormalised"),
        _concept_d_trak("concept-d-trak", Side("generation", "contrast")),
        _concept_d_trak("caption-d-trak", Side("captions"), scorer="captions", measure="captions"),
        _similarity("pixel-dot", "pixels", "dot", ("image",)),
        _similarity("pixel-cosine", "pixels", "cosine", ("image",)),
        _similarity("clip-dot", "clip", "dot", ("image", "concept")),
        _similarity("clip-cosine", "clip", "cosine", ("image", "concept")),
        Method(
            "unlearning",
            "Wang 2024",
            None,
            _NOISED,
            "unlearning",
            ("image", "concept"),
            scorer="unlearning",
            one_model=True,
            passes=_LOSSES,  # kept for all questions
            costs=_UNLEARNING,
        ),
        Method(
            "mucs",
            "Serra 2026",
            None,
            _NOISED,
            "mucs",
            ("image", "concept"),
            scorer="mucs",
            measure="skew",
            one_model=True,
            passes=DRAWS,  # kept for all questions of as many draws
            costs=_MUCS,
        ),
        Method(
            "guda",
            "Murata 2026",
            None,
            None,
            "guda",
            ("groups",),
            scorer="guda",
            measure="groups",
            one_model=True,
            costs=(("groups", Cost(_LEVELS, DRAWS)),),
        ),
        Method(
            "nda",
            "Zhao 2025",
            None,
            Side("patches"),
            "nda",
            _PICTURE,
            scorer="nda",
            measure="patches",
            rereads=True,
        ),
        Method(
            "presence",
            "Li 2023",
            None,
            None,
            "presence",
            ("concept",),
            scorer="presence",
            measure="presence",
            one_model=True,
            costs=(("concept", Cost(value=_PRESENCE)),),  # kept for all values of a kind
        ),
        Method(
            "random", "-", None, None, "random", tuple(QUESTIONS), scorer="random", measure="chance"
        ),
    )
}
