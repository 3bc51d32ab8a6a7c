"""The scores that every method gives every image, for every concept of a truth.

What was scored is kept, one file for each method and question: a run that was stopped, or is asked
for more methods or concepts later, asks what is missing and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from headwater.attribution.attributor import require_damping
from headwater.attribution.scores import has_damping
from headwater.attribution.session import Session
from headwater.errors import MethodError, ParameterError, QueryError
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.studies.method_indexes import (
    asks_by_captions,
    query_kind,
    require_kind,
)
from headwater.index.index import Index
from headwater.methods.choice import method_named
from headwater.methods.row import Method
from headwater.methods.table import METHODS
from headwater.queries.concept import Concept
from headwater.queries.contexts import NAMED_CONTEXTS, choose_contexts
from headwater.queries.image import Image
from headwater.queries.outputs.output import OUTPUTS, Output
from headwater.queries.query import require_draws
from headwater.storage.cache import read, remember

Asked = Concept | Image | Output


@dataclass(frozen=True)
class QuestionOptions:
    """How all questions of an evaluation are asked: see `Concept`, `Image` and `attribute`.

    Attributes:
        ask: slider, contribution or loss: of methods that take it; None for what each is for.

    Raises:
        ParameterError, QueryError: what no question could be asked with, before hours of work.
    """

    draws: int | None = 32
    seed: int = 0
    guidance: float = 5.0
    context: str = "auto"
    damping: float | None = None
    ask: str | None = None

    def __post_init__(self) -> None:
        if self.ask not in (None, "slider", *OUTPUTS):
            raise QueryError(f"--ask {self.ask!r} is not one of slider, {', '.join(OUTPUTS)}")
        require_draws(self.draws)
        if self.damping is not None:
            require_damping(self.damping)
        if self.seed < 0:
            raise ParameterError(f"--seed {self.seed} must be at least 0")


# --- indexes and methods --------------------------------------------------------------------------


def open_indexes(folders: Sequence[str | Path], device: str | None = None) -> list[Index]:
    """Indexes of the same images by the same model, with different features.

    Raises:
        QueryError: of other images, or by another model, than the first one.
        StoreError: a folder holds no finished index.
    """
    first, *others = indexes = [Index.open(folder, device=device) for folder in folders]
    for other in others:
        theirs, ours = ([(s.id, s.all_captions) for s in i.samples] for i in (other, first))
        if theirs != ours:
            raise QueryError(f"{other.path} is not of the images of {first.path}: leave it out")
        for part in ("fingerprint", "dtype"):
            if other.manifest.model[part] != first.manifest.model[part]:
                raise QueryError(f"{other.path} is not by the model of {first.path}: leave it out")
    return indexes


def select_methods(
    indexes: Sequence[Index], names: Sequence[str] = (), ask: str | None = None
) -> dict[Method, Index]:
    """Methods that take a concept, an output or an image, each with the first index that serves it.

    Args:
        names: which; ("all",) for all that are served. By default slow ones and second names of
            a method are left out, unless an index was built for them.
        ask: as of `QuestionOptions`.

    Raises:
        MethodError: no such method, it takes none of these, or no index serves it.
    """
    served: dict[str, Index] = {}
    for index in indexes:
        served = {name: index for name in index.methods()} | served
    askable = [m for name, m in METHODS.items() if name in served and query_kind(m, ask)]
    built_for = {index.recipe.method for index in indexes}
    if not names:
        chosen = [m.name for m in askable if m.name in built_for or not (m.slow or m.alias_of)]
    else:
        chosen = [m.name for m in askable] if list(names) == ["all"] else list(dict.fromkeys(names))
    for name in chosen:
        require_kind(method_named(name), ask)
        if name not in served:
            raise MethodError(
                f"no index here serves {name}: build one with `--method {name}` and give it as "
                "--index"
            )
    return {METHODS[name]: served[name] for name in chosen}


# --- questions and scores -------------------------------------------------------------------------


def concept_question(method: Method, truth: Truth, options: QuestionOptions) -> Asked:
    """The concept; to methods that take none, the picture that the model makes of its prompt.

    An output is asked on training images that name the concept, or on made pictures.
    """
    kind = query_kind(method, options.ask)
    if kind in OUTPUTS:
        return OUTPUTS[kind](
            truth.prompt,
            truth.concept,
            context=options.context,
            draws=options.draws,
            seed=options.seed,
            guidance=options.guidance,
        )
    if kind == "concept":
        return Concept(
            truth.prompt,
            truth.concept,
            context="auto" if asks_by_captions(method) else options.context,
            draws=options.draws,
            seed=options.seed,
        )
    return Image(truth.prompt, draws=options.draws, seed=options.seed, guidance=options.guidance)


def score_concepts(
    methods: Mapping[Method, Index], truths: Sequence[Truth], options: QuestionOptions, folder: Path
) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for every truth; see `score_questions`.

    Raises:
        MethodError: see `require_named`.
    """
    require_named(methods, truths)
    return score_questions(
        methods,
        lambda method: [concept_question(method, truth, options) for truth in truths],
        folder,
        options.damping,
    )


def require_named(methods: Iterable[Method], truths: Sequence[Truth]) -> None:
    """Refuse, before hours of work, a method that asks by captions about what none of them names.

    Raises:
        MethodError: names both.
    """
    by_captions = [method.name for method in methods if asks_by_captions(method)]
    strange = [t.concept for t in truths if t.names.all() or not t.names.any()]
    if by_captions and strange:
        raise MethodError(
            f"{by_captions[0]} asks by captions, and {strange[0]!r} is named by none of them or by "
            "all: leave it out of --methods"
        )


def score_questions(
    methods: Mapping[Method, Index],
    questions: Callable[[Method], Sequence[Asked]],
    folder: Path,
    damping: float | None = None,
) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for its questions; what is kept in `folder` is not asked.

    Args:
        methods: as `select_methods` gives them, their indexes as `open_indexes` does: one copy of
            the model serves them all, and a question that several methods ask alike is asked once.
        questions: of a method; as many for each.
        damping: None for each method's usual one.
    """
    return sweep_dampings(methods, questions, folder, [damping])[damping]


def sweep_dampings(
    methods: Mapping[Method, Index],
    questions: Callable[[Method], Sequence[Asked]],
    folder: Path,
    dampings: Sequence[float | None],
) -> dict[float | None, dict[str, Float[np.ndarray, "q n"]]]:
    """`score_questions` at each damping, for which a question is asked once."""
    scores: dict[float | None, dict[str, np.ndarray]] = {ratio: {} for ratio in dampings}
    sessions = {index.path: Session(index) for index in methods.values()}
    lender = next(iter(sessions.values()))
    queries = {method: questions(method) for method in methods}
    with tqdm(total=sum(map(len, queries.values())), unit="answer", delay=2) as bar:
        for method, index in methods.items():
            bar.set_description(method.name, refresh=False)  # not before its delay
            rows = []
            for query in queries[method]:
                rows.append(
                    _score(folder, Served(method, sessions[index.path], lender), query, dampings)
                )
                bar.update()
            for ratio in dampings:
                scores[ratio][method.name] = np.stack([row[ratio] for row in rows])
    return scores


@dataclass(frozen=True)
class Served:
    """A method, the session on the index that serves it, and the one that lends it its model."""

    method: Method
    session: Session
    lender: Session

    def ask(self, query: Asked, dampings: Sequence[float]) -> dict[float, Float[np.ndarray, " n"]]:
        """The scores at each damping, of one answer."""
        if self.session is not self.lender:
            self.lender.lend_to(self.session)
        answer = self.session.attribute(query, method=self.method.name, damping=list(dampings))
        return dict(answer.sweep or {dampings[0]: answer.scores})

    def facts(self, query: Asked, damping: float) -> dict[str, Any]:
        """All that the scores depend on."""
        manifest = self.session.index.manifest
        members = [member.index.manifest for member in self.session.members]
        return {
            "model": manifest.model["fingerprint"],
            "samples": manifest.samples_sha256,
            "recipe": dict(manifest.recipe),
            "features": [shard.checksum for member in members for shard in member.shards],
            "rule": self.method.rule,
            "query": [query.kind, _query_facts(query), str(self.method.asks(query.kind))],
            "damping": damping,
            "headwater": metadata.version("headwater"),
        }


def _score(
    folder: Path, served: Served, query: Asked, dampings: Sequence[float | None]
) -> dict[float | None, Float[np.ndarray, " n"]]:
    """At each damping, kept one by one; a method without one has one answer for all."""
    method = served.method
    meant = {given: method.damping if given is None else given for given in dampings}
    apart = list(meant.values()) if has_damping(method) else [method.damping]
    place = folder / method.name
    kept = {ratio: read(place, served.facts(query, ratio)) for ratio in apart}
    missing = [ratio for ratio, entry in kept.items() if entry is None]
    answers = served.ask(query, missing) if missing else {}
    for ratio, scores in answers.items():
        kept[ratio] = remember(
            place, served.facts(query, ratio), lambda s=scores: {"scores": torch.from_numpy(s)}
        )
    scores = {ratio: entry.tensors["scores"].numpy() for ratio, entry in kept.items() if entry}
    return {given: scores.get(ratio, scores[apart[0]]) for given, ratio in meant.items()}


def _query_facts(query: Asked) -> dict[str, Any]:
    """A question as JSON: files go by what they hold, not by where they lie."""
    if isinstance(query, Output):  # a set of pictures is no JSON, and would be copied whole
        facts = {**asdict(replace(query, pictures="made")), "pictures": query.contents()}
    else:
        facts = asdict(query)
    if isinstance(query, Image):
        return {**facts, "file": None, "mask": None, "contents": query.contents()}
    if isinstance(query, Concept) and query.alternatives is None:  # as before there were any
        del facts["alternatives"]
    if query.context not in NAMED_CONTEXTS:
        concept = query if isinstance(query, Concept) else query.slider
        facts["context"] = list(choose_contexts(concept, ()).pairs)
    return facts
