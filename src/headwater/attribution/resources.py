"""What answers need of an index in memory: model, CLIP, kernel, pictures. Each is made once.

Nothing is made before it is needed: an answer whose gradient and picture are kept from an earlier
time needs neither the model nor CLIP.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headwater.attribution.gram import Gram, Inverse, Spectrum, downdated, gram, inside_of
from headwater.attribution.kernel import Kernel, computed
from headwater.attribution.passes import (
    KERNELS,
    added,
    are_divided,
    forget_products,
    measured,
    measured_on,
    products,
    progress_in,
)
from headwater.attribution.pictures import remember_picture
from headwater.data.training_set import Captions
from headwater.errors import QueryError
from headwater.gradients.blocks import forms_as_they_are
from headwater.index.curvature.fit import fit_of, former_of
from headwater.index.index import Index
from headwater.index.machines import Machine, extractor, load_denoiser
from headwater.index.samples import rows_by_id
from headwater.methods.row import Method
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.draws import RowCache
from headwater.queries.image import shown
from headwater.queries.query import Pictured, Question
from headwater.queries.words.alternatives import mine_kinds
from headwater.runtime.executor import THIS_PROCESS, Executor
from headwater.runtime.memory import usable_device
from headwater.storage import cache
from headwater.storage.blocks import narrowed


class Resources:
    """An index, and what was made in memory to ask it.

    Attributes:
        index: its rows, recipe and images.
        executor: who reads the rows for a kernel and a question: this process, or workers, who
            begin anew for each pass over them.
        lock: held while a question is answered, for several users of one session.
        queries: folder that keeps gradients, pictures and tokens of questions.
        needed: bytes that a draw of a question keeps in memory, by the kind of question.
    """

    def __init__(self, index: Index, executor: Executor = THIS_PROCESS) -> None:
        self.index = index
        self.executor = executor
        self.lock = threading.RLock()
        self.queries = index.path / "queries"
        self.needed: dict[str, int] = {}
        self._denoiser: Denoiser | None = None
        self._clip: Clip | None = index.handed.clip
        self._matrices: dict[str, Any] = {}
        self._pictures: dict[str, Picture] = {}

    @cached_property
    def members(self) -> Sequence[Resources]:
        """This index's, and those of each further checkpoint's."""
        return [self, *(Resources(each, self.executor) for each in self.index.checkpoints)]

    @property
    def captions(self) -> Captions:
        """All of the training images'."""
        return Captions(self.index.samples)

    @cached_property
    def kinds(self) -> list[tuple[str, ...]]:
        """Kinds of words that the captions have."""
        facts = {"kinds": 1, "of": [self.index.manifest.samples_sha256, self.index.fingerprint]}
        kept = cache.remember(self.queries, facts, lambda: ({}, {"all": mine_kinds(self.captions)}))
        return list(map(tuple, kept.note["all"]))

    # --- models -----------------------------------------------------------------------------

    @property
    def denoiser(self) -> Denoiser:
        """The model that the index was built with.

        Raises:
            ModelError: it cannot be loaded any more.
            MismatchError: the model at its recorded source has changed since.
        """
        if self._denoiser is None:
            self._denoiser = load_denoiser(self.index)
        return self._denoiser

    @property
    def device(self) -> str:
        """Where the model is, or would be loaded."""
        if self._denoiser is None and self.index.handed.denoiser is None:
            return str(usable_device(self.index.handed.device))
        return str(self.denoiser.device)

    def clip(self) -> Clip:
        """The CLIP model that was given, or that the index was built with.

        Raises:
            QueryError: neither.
        """
        if self._clip is None:
            source = self.index.manifest.model.get("clip_source")
            if source is None:
                raise QueryError("this needs a CLIP model: give its folder as --clip")
            self._clip = Clip(source, self.device)
        return self._clip

    def extractor(self, dampings: Sequence[float | None] = (None,)) -> Machine:
        """What makes rows of questions.

        Args:
            dampings: of the curvature that an index's rows are in the metric of, None where they
                are not. A row holds the features at each after those at the ones before it.
        """
        index = self.index
        clip = self.clip() if index.recipe.clip else None
        formers = [
            forms_as_they_are
            if damping is None
            else former_of(index.path, index.manifest, index.recipe, damping)
            for damping in dampings
        ]
        return extractor(self.denoiser, index.recipe, clip, formers)

    def release(self) -> None:
        """Let go of what takes memory; it is made again where it is needed."""
        self._denoiser, self._matrices = None, {}

    def lend_to(self, other: Resources) -> None:
        """Let another index, by the same model, use what this one has made for questions.

        That is the model in memory, pictures, and gradients of questions, which do not depend on
        what is asked of training images.
        """
        other._denoiser = self.denoiser
        other._pictures = self._pictures
        other.queries = self.queries

    # --- what is kept -----------------------------------------------------------------------

    def row_cache(self, fresh: bool, damping: float | None = None) -> RowCache:
        """Where feature rows of questions are kept; `damping` as one of `extractor`."""
        model, recipe = self.index.manifest.model, self.index.recipe
        facts = [model["fingerprint"], model["dtype"], recipe.query_facts()]
        if damping is not None:
            fit = fit_of(self.index.path, self.index.manifest, recipe)
            facts += [damping, fit.key, *([fit.metric] if fit.metric else [])]
        return RowCache(self.queries, facts, fresh, recipe.dim)

    def picture(self, pictured: Pictured) -> Picture:
        """The picture of a question, drawn or opened once; files are known by their contents."""
        model = self.index.manifest.model
        facts: dict[str, Any] = {
            "picture": dict(pictured.picture_facts()),
            "model": [model["fingerprint"], model["dtype"]],
        }
        key = cache.key(facts)
        if key not in self._pictures:
            picture = remember_picture(self.queries, facts, lambda: pictured.picture(self.denoiser))
            self._pictures[key] = picture
        return self._pictures[key]

    def picture_of(self, query: Question, guidance: float) -> Picture | None:
        """The picture that stands for a question; None for one that does not ask the model.

        Args:
            guidance: of the one that the model makes for a question without a picture.
        """
        pictured = shown(query, guidance)
        return None if pictured is None else self.picture(pictured)

    def kernel(self) -> Kernel:
        """The kernel of all images; what it takes is made when a rule asks for it, and kept."""
        return self._kernel(None, {})

    def kernel_without(self, ids: Collection[str]) -> Kernel:
        """The kernel of all images but these, which it scores too.

        Raises:
            QueryError: an id is none of the index, or no image is left.
        """
        samples = self.index.samples
        found = rows_by_id(samples, set(ids))
        strange, outside = set(ids) - found.keys(), list(found.values())
        if strange:
            raise QueryError(f"{min(strange)!r} is no image of {self.index.path}: leave it out")
        inside = torch.ones(len(samples), dtype=torch.bool)
        inside[outside] = False
        if not inside.any():
            raise QueryError(f"no image of {self.index.path} is left for the kernel: name fewer")
        return self._kernel(inside, {"outside": outside} if outside else {})

    def _kernel(self, inside: Bool[Tensor, " n"] | None, outside: Mapping[str, Any]) -> Kernel:
        """Of the rows inside, or of all; all are scored.

        Workers read the rows where it is primal. A dual one is of fewer rows than features, which
        one process reads in the time that workers take to begin.
        """
        index, folder = self.index, self.index.path / KERNELS
        count = len(narrowed(index.stored, inside))
        facts, dual = {**self._row_facts(), **outside}, count < index.recipe.dim
        m, made = min(count, index.recipe.dim), partial(self._gram, inside, outside)

        def kept(name: str, ratio: float, compute: Callable[[], Tensor]) -> Tensor:
            asked = {**facts, "kept": name, "damping": ratio}
            size = (m, m) if name == "factor" else (len(index),)
            found = cache.remember(folder, asked, lambda: {name: compute()}, sizes={name: size})
            return found.tensors[name]

        def inverted(ratio: float) -> Inverse:
            # factors of a sweep would fill the disk
            keep = kept if ratio == Method.damping else computed
            return Inverse(keep("factor", ratio, lambda: made().factor(ratio)))

        def decomposed() -> Spectrum:
            asked, sizes = {**facts, "kept": "spectrum"}, {"values": [m], "vectors": [m, m]}
            found = cache.remember(folder, asked, lambda: made().spectrum()._asdict(), sizes=sizes)
            return Spectrum(**found.tensors)

        by_workers, whole = self.by_workers(count), str(outside)
        by_this = partial(measured_on, index, self._arithmetic)
        return Kernel(
            index.scan,
            partial(measured, index, self.executor) if by_workers else by_this,
            count,
            dual,
            made,
            lambda ratio: self._hold(f"inverse {whole} {ratio}", partial(inverted, ratio)),
            lambda: self._hold(f"spectrum {whole}", decomposed),
            partial(self._hold, "residuals", index.residuals),
            inside,
            kept,
        )

    @property
    def _arithmetic(self) -> str:
        """Where rows are multiplied: sums are of float64, which Apple's GPUs do not have."""
        return self.device if self.device.startswith("cuda") else "cpu"

    def by_workers(self, count: int) -> bool:
        """Whether workers read the rows, for what is computed of so many."""
        return self.executor != THIS_PROCESS and count >= self.index.recipe.dim

    def idle_workers(self, method: Method) -> str:
        """Why the workers of a session have nothing to do for a method; "" where they have."""
        if self.executor == THIS_PROCESS:
            return ""
        if not method.scores_rows:
            return f"{method.name} reads no rows"
        return "" if self.by_workers(len(self.index)) else "there are fewer rows than features"

    def _row_facts(self) -> dict[str, Any]:
        """What the rows are, as caches have it."""
        shards = [shard.checksum for shard in self.index.manifest.shards]
        removed = {"images": self.index.fingerprint} if self.index.removed else {}
        return {"shards": shards, **removed}

    def _gram(self, inside: Bool[Tensor, " n"] | None, outside: Mapping[str, Any]) -> Gram:
        """Of the rows inside; kept."""
        index, folder, dim = self.index, self.index.path / KERNELS, self.index.recipe.dim
        rows, facts = narrowed(index.stored, inside), {**self._row_facts(), **outside, "damping": 0}
        count, so_far = len(rows), {**facts, "kept": "gram so far"}
        dual = count < dim
        by_parts = partial(products, index, self.executor, device=self._arithmetic)

        def of_all() -> Tensor | None:
            """The matrix of all rows, if it is kept, and some were removed, but not most."""
            little = index.removed and not outside and index.manifest.rows < 2 * count and not dual
            asked = {"shards": facts["shards"], "kept": "gram", "damping": 0}
            entry = cache.read(folder, asked, {"gram": [dim, dim]}) if little else None
            return None if entry is None else entry.tensors["gram"]

        def compute() -> Tensor:
            by_workers, whole = self.by_workers(count), of_all()
            if whole is not None:
                removed = index.stored_removed
                gone = ((block.T @ block).double() for block in index.removed_blocks())
                gone = by_parts(removed) if by_workers and are_divided(removed) else gone
                return downdated(whole, index.manifest.rows, count, gone)
            if by_workers and are_divided(rows):
                return added(by_parts(rows)).div_(count)
            blocks = index.scan if inside is None else inside_of(index.scan, inside)
            saved = progress_in(folder, so_far, dim)
            return gram(blocks, count, dim, self._arithmetic, saved).matrix

        asked, sizes = {**facts, "kept": "gram"}, {"gram": [min(count, dim)] * 2}
        found = cache.remember(folder, asked, lambda: {"gram": compute()}, sizes=sizes)
        if not found.cached:
            cache.forget(folder, so_far)
            forget_products(index, [rows, index.stored_removed])
        return Gram(found.tensors["gram"], dual)

    def _hold(self, name: str, make: Callable[[], Any]) -> Any:
        """What a kernel takes, made once; of inverses the last alone is held."""
        if name not in self._matrices:
            if name.startswith("inverse"):
                held = self._matrices.items()
                self._matrices = {n: m for n, m in held if not n.startswith("inverse")}
            self._matrices[name] = make()
        return self._matrices[name]
