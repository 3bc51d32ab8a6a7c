"""The scores that every method gives every image, for every concept of a truth.

What was scored is kept, one file for each method and question: a run that was stopped, or is asked
for more methods or concepts later, asks what is missing and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from headwater.attribution.attributor import DAMPING, attribute, require_damping
from headwater.attribution.scores import NO_KERNEL
from headwater.errors import MethodError, ParameterError, QueryError
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.index.index import Index
from headwater.methods import CAPTIONS, METHODS, Method, method_named
from headwater.queries.concept import NAMED_CONTEXTS, Concept, contexts
from headwater.queries.image import Image
from headwater.queries.query import require_draws
from headwater.report.export import slug
from headwater.storage.files import read_tensors, write_tensors

# Several passes per image *and* question: hours, where the others take minutes.
SLOW = ("unlearning",)


@dataclass(frozen=True)
class Asking:
    """How all questions of an evaluation are asked: see `Concept`, `Image` and `attribute`.

    Raises:
        ParameterError, QueryError: what no question could be asked with, before hours of work.
    """

    draws: int | None = 32
    seed: int = 0
    guidance: float = 5.0
    context: str = "auto"
    damping: float = DAMPING

    def __post_init__(self) -> None:
        require_draws(self.draws)
        require_damping(self.damping)
        if self.seed < 0:
            raise ParameterError(f"--seed {self.seed} must be at least 0")


# --- indexes and methods --------------------------------------------------------------------------


def open_all(folders: Sequence[str | Path], device: str | None = None) -> list[Index]:
    """Indexes of the same images by the same model, with different features.

    Raises:
        QueryError: of other images, or by another model, than the first one.
        StoreError: a folder holds no finished index.
    """
    first, *others = indexes = [Index.open(folder, device=device) for folder in folders]
    for other in others:
        theirs, ours = ([(s.id, s.caption) for s in i.samples] for i in (other, first))
        if theirs != ours:
            raise QueryError(f"{other.path} is not of the images of {first.path}: leave it out")
        for part in ("fingerprint", "dtype"):
            if other.manifest.model[part] != first.manifest.model[part]:
                raise QueryError(f"{other.path} is not by the model of {first.path}: leave it out")
    return indexes


def serving(indexes: Sequence[Index], names: Sequence[str] = ()) -> dict[Method, Index]:
    """Methods that take a concept or an image, each with the first index that serves it.

    Args:
        names: which; ("all",) for all that are served. By default slow ones and second names of
            a method are left out.

    Raises:
        MethodError: no such method, it takes neither, or no index serves it.
    """
    served: dict[str, Index] = {}
    for index in indexes:
        served = {name: index for name in index.methods()} | served
    everything = [name for name, method in METHODS.items() if name in served and _kind(method)]
    if not names:
        chosen = [name for name in everything if name not in SLOW and not _second_name(name)]
    else:
        chosen = everything if list(names) == ["all"] else list(dict.fromkeys(names))
    for name in chosen:
        if not _kind(method_named(name)):
            raise MethodError(f"{name} takes neither concepts nor images: leave it out")
        if name not in served:
            raise MethodError(
                f"no index here serves {name}: build one with `--method {name}` and give it as "
                "--index"
            )
    return {METHODS[name]: served[name] for name in chosen}


def _kind(method: Method) -> str:
    """What a method is asked about in an evaluation."""
    return next((kind for kind in ("concept", "image") if kind in method.takes), "")


def _second_name(name: str) -> bool:
    return METHODS[name].paper.startswith("the same as")


# --- questions and scores -------------------------------------------------------------------------


def question(method: Method, truth: Truth, asking: Asking) -> Concept | Image:
    """The concept; to methods that take none, the picture that the model makes of its prompt."""
    if _kind(method) == "concept":
        return Concept(
            truth.prompt,
            truth.concept,
            context="auto" if method.concept == CAPTIONS else asking.context,
            draws=asking.draws,
            seed=asking.seed,
        )
    return Image(truth.prompt, draws=asking.draws, seed=asking.seed, guidance=asking.guidance)


def scores(
    methods: Mapping[Method, Index], truths: Sequence[Truth], asking: Asking, folder: Path
) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for every truth; see `answered`.

    Raises:
        MethodError: see `require_named`.
    """
    require_named(methods, truths)
    return answered(
        methods,
        lambda method: [question(method, t, asking) for t in truths],
        folder,
        asking.damping,
    )


def require_named(methods: Iterable[Method], truths: Sequence[Truth]) -> None:
    """Refuse, before hours of work, a method that asks by captions about what none of them names.

    Raises:
        MethodError: names both.
    """
    by_captions = [method.name for method in methods if method.concept == CAPTIONS]
    strange = [t.concept for t in truths if t.names.all() or not t.names.any()]
    if by_captions and strange:
        raise MethodError(
            f"{by_captions[0]} asks by captions, and {strange[0]!r} is named by none of them or by "
            "all: leave it out of --methods"
        )


def answered(
    methods: Mapping[Method, Index],
    questions: Callable[[Method], Sequence[Concept | Image]],
    folder: Path,
    damping: float = DAMPING,
) -> dict[str, Float[np.ndarray, "q n"]]:
    """What each method scores every image for its questions; what is kept in `folder` is not asked.

    Args:
        methods: as `serving` gives them, their indexes as `open_all` does: one copy of the model
            serves them all, and a question that several methods ask alike is asked once.
        questions: of a method; as many for each.

    Raises:
        StoreError: `folder` cannot be written.
    """
    return swept(methods, questions, folder, [damping])[damping]


def swept(
    methods: Mapping[Method, Index],
    questions: Callable[[Method], Sequence[Concept | Image]],
    folder: Path,
    dampings: Sequence[float],
) -> dict[float, dict[str, Float[np.ndarray, "q n"]]]:
    """`answered` at each damping, for which a question is asked once."""
    found: dict[float, dict[str, np.ndarray]] = {ratio: {} for ratio in dampings}
    lender = next(iter(methods.values()))
    asked = {method: questions(method) for method in methods}
    with tqdm(total=sum(map(len, asked.values())), unit="answer", delay=2) as bar:
        for method, index in methods.items():
            bar.set_description(method.name, refresh=False)  # not before its delay
            rows = []
            for query in asked[method]:
                rows.append(_scored(folder, index, lender, method, query, dampings))
                bar.update()
            for ratio in dampings:
                found[ratio][method.name] = np.stack([row[ratio] for row in rows])
    return found


def _scored(
    folder: Path,
    index: Index,
    lender: Index,
    method: Method,
    query: Concept | Image,
    dampings: Sequence[float],
) -> dict[float, Float[np.ndarray, " n"]]:
    """At each damping; a rule without a kernel has one answer for all."""
    asked = [DAMPING] if method.rule in NO_KERNEL else dampings
    paths = {ratio: _path(folder, index, method, query, ratio) for ratio in asked}
    kept = {ratio: read_tensors(path) for ratio, path in paths.items()}
    found = {ratio: tensors["scores"].numpy() for ratio, tensors in kept.items() if tensors}
    missing = [ratio for ratio in asked if ratio not in found]
    if missing:
        if index is not lender:
            lender.lend_to(index)
        answer = attribute(index, query, method=method.name, damping=missing)
        for ratio, scores in (answer.sweep or {missing[0]: answer.scores}).items():
            write_tensors(paths[ratio], {"scores": torch.from_numpy(scores)}, {})
            found[ratio] = scores
    return {ratio: found.get(ratio, found[asked[0]]) for ratio in dampings}


def _path(
    folder: Path, index: Index, method: Method, query: Concept | Image, damping: float
) -> Path:
    """A file name of all that the scores depend on."""
    about = asdict(query)
    if isinstance(query, Image):  # files go by what they hold, not by where they lie
        about = {**about, "file": None, "mask": None, "contents": query.contents()}
    elif query.context not in NAMED_CONTEXTS:
        about["context"] = list(contexts(query, ()).pairs)
    facts = {
        "model": index.manifest.model["fingerprint"],
        "samples": index.manifest.samples_sha256,
        "recipe": dict(index.manifest.recipe),
        "features": [s.checksum for member in index.members() for s in member.manifest.shards],
        "rule": method.rule,
        "query": [query.kind, about, str(method.asks(query.kind))],
        "damping": damping,
        "headwater": metadata.version("headwater"),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    words = query.concept if isinstance(query, Concept) else query.prompt
    return folder / method.name / f"{slug(words)}-{digest}.safetensors"
