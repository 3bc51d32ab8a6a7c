"""A finished index: its rows, its recipe, and the model and images that it came from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.data.sources import load_dataset
from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import (
    DatasetError,
    HeadwaterWarning,
    MismatchError,
    QueryError,
    StoreError,
    first_line,
)
from headwater.index.config import FEATURES_VERSION, Recipe, extractor
from headwater.methods import method_named, served_by
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.queries.image import Image, picture_of, require_step
from headwater.queries.query import Question
from headwater.storage.files import sha256_of
from headwater.storage.manifest import (
    Manifest,
    checkpoint_folders,
    read_manifest,
    unfinished_checkpoints,
)
from headwater.storage.shards import read_blocks, read_residuals


class Index:
    """Feature rows on disk, what they are of, and the model and images that they came from.

    The model and the images are loaded again from their recorded sources when first needed,
    unless they were given to `open`.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        samples: Sequence[Sample],
        positions: Sequence[int],
        denoiser: Denoiser | None = None,
        training_set: TrainingSet | None = None,
        device: str | None = None,
        clip: Clip | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.samples = samples
        self.positions = positions
        self._denoiser = denoiser
        self._training_set = training_set
        self._device = device
        self._images_lost = False
        self._clip = clip
        self._pictures: dict[Any, Picture] = {}
        self.queries = path / "queries"  # where the gradients of questions are kept

    @classmethod
    def open(
        cls,
        path: str | Path,
        denoiser: Denoiser | None = None,
        training_set: TrainingSet | None = None,
        device: str | None = None,
        clip: Clip | None = None,
    ) -> Index:
        """Open a finished index; `device` is where its model will be loaded when it is needed.

        `clip` is for methods and candidates that need one.

        Raises:
            StoreError: there is none, it is unfinished, damaged, or of another format version.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if not manifest.complete:
            raise StoreError(
                f"{path} is unfinished: run its `headwater index` command again, it goes on "
                "where it stopped"
            )
        try:
            if sha256_of(path / "samples.parquet") != manifest.samples_sha256:
                raise ValueError("its checksum differs from index.json")
            table = pq.read_table(path / "samples.parquet").to_pydict()
            row, *columns = (table[name] for name in ("row", "id", "caption", "uri"))
            if len(row) != manifest.rows:
                raise ValueError(f"{len(row)} rows, not {manifest.rows}")
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise StoreError(
                f"{path / 'samples.parquet'} cannot be read ({first_line(error)}): "
                "run the same `headwater index` command again to write it again"
            ) from None
        samples = [Sample(*values) for values in zip(*columns, strict=True)]
        return cls(path, manifest, samples, row, denoiser, training_set, device, clip)

    def __len__(self) -> int:
        return len(self.samples)

    def attribute(self, query: Question, **options: Any) -> Any:
        """Score every training image for a query: see `headwater.attribution.attribute`."""
        from headwater.attribution.attributor import attribute

        return attribute(self, query, **options)

    @cached_property
    def recipe(self) -> Recipe:
        """What the rows were made with."""
        raw = dict(self.manifest.recipe)
        if raw["features_version"] != FEATURES_VERSION:
            raise StoreError(
                f"{self.path} holds features of version {raw['features_version']}, this headwater "
                f"computes {FEATURES_VERSION}: build the index again with --overwrite"
            )
        try:
            raw |= {name: tuple(raw[name]) for name in ("layers", "timesteps")}
            recipe = Recipe(**raw)
            method_named(recipe.method)
            return recipe
        except TypeError as error:
            raise StoreError(
                f"{self.path / 'index.json'} has a damaged recipe ({error}): build the index "
                "again with --overwrite"
            ) from None

    @cached_property
    def denoiser(self) -> Denoiser:
        """The model the index was built with.

        Raises:
            ModelError: it cannot be loaded any more.
            MismatchError: the model at its recorded source has changed since.
        """
        model = self.manifest.model
        if self._denoiser is None and not model["source"]:
            raise StoreError(f"{self.path} was built with a model in memory: give it to Index.open")
        denoiser = self._denoiser or Denoiser.load(
            model["source"],
            self._device,
            getattr(torch, model["dtype"]),
            model.get("lora_source"),
        )
        if denoiser.fingerprint() != model["fingerprint"]:
            raise MismatchError(
                f"the model {denoiser.source or 'given'!r} is not the one that {self.path} was "
                "built with, its weights differ: build the index again for this model"
            )
        return denoiser

    @cached_property
    def training_set(self) -> TrainingSet:
        """The images the index was built from.

        Raises:
            DatasetError: they are not at their recorded source any more.
        """
        data = self.manifest.data
        return self._training_set or load_dataset(data["source"], **data["options"])

    def require_same_images(self) -> None:
        """Refuse images that have moved to other rows since the index was built.

        Raises:
            MismatchError: so they have.
        """
        there = dict(enumerate(sample.id for sample in self.training_set.samples))
        for position, sample in zip(self.positions, self.samples, strict=True):
            if there.get(position) != sample.id:
                raise MismatchError(
                    f"{self.training_set.source} is not what {self.path} was built from, "
                    f"{sample.id!r} is not at row {position}: build the index again"
                )

    def image(self, row: int) -> PIL.Image.Image | None:
        """The picture of an index row, or None where it cannot be opened any more."""
        if self._images_lost:
            return None
        try:
            images = self.training_set
        except DatasetError as error:
            self._images_lost = True  # do not look for them again for each picture
            text = f"the pictures cannot be shown: {error}"
            warnings.warn(text, HeadwaterWarning, stacklevel=2)
            return None
        try:
            position = self.positions[row]
            if images.samples[position].id != self.samples[row].id:
                return None  # the data set has changed since
            return images.image(position)
        except (DatasetError, IndexError):
            return None

    # --- what attribution asks of an index ------------------------------------------------------

    def methods(self) -> list[str]:
        """Names of the methods that this index can serve."""
        recipe = self.recipe
        return served_by(recipe.train, recipe.normalise, 1 + self.manifest.checkpoints)

    def members(self) -> list[Index]:
        """This index, and one for each further checkpoint."""
        return [self, *self._checkpoints]

    @cached_property
    def _checkpoints(self) -> list[Index]:
        left = unfinished_checkpoints(self.path, self.manifest)
        if left:
            raise StoreError(
                f"{self.path} is unfinished, it lacks {len(left)} of its "
                f"{self.manifest.checkpoints} checkpoint(s): run its `headwater index` command "
                "again, it goes on where it stopped"
            )
        folders = checkpoint_folders(self.path, self.manifest)
        return [Index.open(folder, device=self._device) for folder in folders]

    def machine(self) -> Any:
        """What makes this index's rows."""
        clip = self.clip() if self.recipe.clip else None
        return extractor(self.denoiser, self.recipe, clip)

    def clip(self) -> Clip:
        """The CLIP model that was given, or that the index was built with.

        Raises:
            QueryError: neither.
        """
        if self._clip is None:
            source = self.manifest.model.get("clip_source")
            if source is None:
                raise QueryError("this needs a CLIP model: give its folder as --clip")
            self._clip = Clip(source, self.denoiser.device)
        return self._clip

    def lend_to(self, other: Index) -> None:
        """Let another index, by the same model, use what this one has made for questions.

        That is the model in memory, pictures, and gradients of questions, which do not depend on
        what is asked of training images.
        """
        other.denoiser = self.denoiser
        other._pictures = self._pictures
        other.queries = self.queries

    def picture(self, query: Image) -> Picture:
        """The picture that a question is about; drawn once."""
        if query.step is not None:
            require_step(self.denoiser, query.step, query.steps)
        key = (query.file, query.prompt, query.seed, query.guidance, query.steps)
        if key not in self._pictures:
            self._pictures[key] = picture_of(self.denoiser, query)
        return self._pictures[key]

    def residuals(self) -> Float[Tensor, "n p"] | None:
        """The residuals of each row's probes, where noise was drawn."""
        return read_residuals(self.path, self.manifest.shards)

    def blocks(self) -> Iterator[Float[Tensor, "r k"]]:
        """The feature rows, shard by shard, checksums verified."""
        return read_blocks(self.path, self.manifest)
