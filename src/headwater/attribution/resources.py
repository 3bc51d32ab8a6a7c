"""What answers need of an index in memory: model, CLIP, spectrum, pictures. Each is made once.

Nothing is made before it is needed: an answer whose gradient and picture are kept from an earlier
time needs neither the model nor CLIP.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from headwater.attribution.kernel import Kernel, Spectrum, spectrum
from headwater.attribution.pictures import remember_picture
from headwater.data.training_set import every_caption
from headwater.errors import QueryError
from headwater.index import config
from headwater.index.index import Index, load_denoiser
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.draws import RowCache
from headwater.queries.image import shown
from headwater.queries.query import Pictured, Question
from headwater.queries.words.alternatives import mine_kinds
from headwater.runtime.memory import usable_device
from headwater.storage import cache


class Resources:
    """An index, and what was made in memory to ask it.

    Attributes:
        index: its rows, recipe and images.
        lock: held while a question is answered, for several users of one session.
        queries: folder that keeps gradients, pictures and tokens of questions.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.lock = threading.RLock()
        self.queries = index.path / "queries"
        self._denoiser: Denoiser | None = None
        self._clip: Clip | None = index.handed.clip
        self._spectrum: Spectrum | None = None
        self._pictures: dict[str, Picture] = {}

    @cached_property
    def members(self) -> Sequence[Resources]:
        """This index's, and those of each further checkpoint's."""
        return [self, *map(Resources, self.index.checkpoints)]

    @property
    def captions(self) -> list[str]:
        """All of the training images'."""
        return every_caption(self.index.samples)

    @cached_property
    def kinds(self) -> list[tuple[str, ...]]:
        """Kinds of words that the captions have."""
        return mine_kinds(self.captions)

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

    def extractor(self) -> config.Machine:
        """What makes this index's rows."""
        clip = self.clip() if self.index.recipe.clip else None
        return config.extractor(self.denoiser, self.index.recipe, clip)

    def release(self) -> None:
        """Let go of what takes memory; it is made again where it is needed."""
        self._denoiser = self._spectrum = None

    def lend_to(self, other: Resources) -> None:
        """Let another index, by the same model, use what this one has made for questions.

        That is the model in memory, pictures, and gradients of questions, which do not depend on
        what is asked of training images.
        """
        other._denoiser = self.denoiser
        other._pictures = self._pictures
        other.queries = self.queries

    # --- what is kept -----------------------------------------------------------------------

    def row_cache(self, fresh: bool) -> RowCache:
        """Where feature rows of questions are kept."""
        model = self.index.manifest.model
        facts = [model["fingerprint"], model["dtype"], self.index.recipe.query_facts()]
        return RowCache(self.queries, facts, fresh)

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

    def spectrum(self) -> Spectrum:
        """The kernel's eigendecomposition, computed once for these shards."""
        if self._spectrum is None:
            index, rows, dim = self.index, len(self.index), self.index.recipe.dim
            facts = {"shards": [shard.checksum for shard in index.manifest.shards]}

            def compute() -> cache.Computed:
                made = spectrum(index.blocks, rows, dim)
                return {"values": made.values, "vectors": made.vectors}

            kept = cache.remember(index.path / "kernels", facts, compute).tensors
            self._spectrum = Spectrum(kept["values"], kept["vectors"], dual=rows < dim)
        return self._spectrum

    def kernel(self, inverted: bool) -> Kernel:
        """The kernel before a damping is chosen; its spectrum where it is to be inverted."""
        made = self.spectrum() if inverted else None
        return Kernel(self.index.blocks, made, 0.0, len(self.index), self.index.residuals())
