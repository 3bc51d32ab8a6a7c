"""A finished index: feature rows on disk, their recipe, and what each row is of."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.data.sources import load_dataset, load_pictures
from headwater.data.training_set import TrainingSet
from headwater.errors import DatasetError, HeadwaterWarning, MismatchError, StoreError
from headwater.index.config import FEATURES_VERSION, Recipe
from headwater.index.samples import RowSamples, read_samples
from headwater.methods.choice import method_named, served_by
from headwater.models.clip import Clip
from headwater.models.denoiser import Denoiser
from headwater.storage.blocks import (
    Part,
    StoredRows,
    Verified,
    read_part,
    read_residuals,
    read_rows,
    without_idle_shards,
)
from headwater.storage.manifest import (
    Manifest,
    checkpoint_folders,
    read_manifest,
    unfinished_checkpoints,
)
from headwater.storage.remote import here, hub_url, is_remote

if TYPE_CHECKING:
    from headwater import Attribution, Session


class Handed(NamedTuple):
    """What the caller handed over in memory, for sessions on an index.

    Attributes:
        denoiser: the model; None loads it from its recorded source.
        device: where it is loaded.
        clip: for methods and candidates that need one.
    """

    denoiser: Denoiser | None = None
    device: str | None = None
    clip: Clip | None = None


class Index:
    """Feature rows on disk, what they are of, and the images that they came from.

    An index is data: it is asked in a `Session`, which holds the model. The images are opened again
    from their recorded source when first needed, unless they were given to `open`.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        rows: RowSamples,
        training_set: TrainingSet | None = None,
        handed: Handed | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.samples, self.positions, self.removed, inside = rows
        # of each row on disk whether it was not removed; None where none was
        self.inside = None if inside is None else torch.from_numpy(inside)
        self.handed = handed or Handed()
        self._training_set = training_set
        self._verified: Verified = {}

    @classmethod
    def open(
        cls,
        path: str | Path,
        denoiser: Denoiser | None = None,
        training_set: TrainingSet | None = None,
        device: str | None = None,
        clip: Clip | None = None,
        removed: frozenset[int] | None = None,
    ) -> Index:
        """Open a finished index; `device` is where its model will be loaded when it is needed.

        `path` may be a URL (`storage.remote`): all but the rows is copied to this machine then.
        `denoiser` and `clip` are for sessions on it: see `Handed`. `removed` are rows of the data
        set that it is asked without; those that it says were removed, by default.

        Raises:
            StoreError: there is none, it is unfinished, damaged, or of another format version.
        """
        path = Path(here(str(path)))
        manifest = read_manifest(path)
        if not manifest.complete:
            raise StoreError(
                f"{path} is unfinished: run its `headwater index` command again, it goes on "
                "where it stopped"
            )
        without = manifest.removed_rows if removed is None else removed
        rows = read_samples(path, manifest, without)
        return cls(path, manifest, rows, training_set, Handed(denoiser, device, clip))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, revision: str | None = None, **options: Any
    ) -> Index:
        """Open an index of the Hugging Face hub, where `headwater push` has put it.

        Args:
            name: of the data set there, OWNER/NAME or OWNER/NAME/FOLDER; or a folder or a URL.
            revision: of the data set: a branch, a tag or a commit.
            options: of `open`. The model and the images are not in the index: give `denoiser` and
                `training_set` where they do not lie where it says.

        Raises:
            StoreError: there is none, the hub cannot be reached, or as `open`.

        Example:
            index = Index.from_pretrained("someone/my-index", denoiser=Denoiser.load("my-model"))
        """
        known = is_remote(str(name)) or Path(name).exists()
        return cls.open(name if known else hub_url(str(name), revision), **options)

    def __len__(self) -> int:
        return len(self.samples)

    # --- asked, for convenience -------------------------------------------------------------

    def attribute(self, query: Any, **options: Any) -> Attribution:
        """Score every training image for a question, in a session of its own: `Session.attribute`.

        The session, and so the model, stays open with the index.
        """
        return self._session.attribute(query, **options)

    @cached_property
    def _session(self) -> Session:
        import headwater  # by the package's front door: an index knows nothing of who asks it

        return headwater.Session(self)

    @cached_property
    def recipe(self) -> Recipe:
        """What the rows were made with."""
        return recipe_of(self.path, self.manifest)

    def methods(self) -> list[str]:
        """Names of the methods that this index can serve."""
        recipe = self.recipe
        checkpoints = 1 + self.manifest.checkpoints
        recorded = self.run is not None
        return served_by(recipe.train, recipe.normalise, checkpoints, recipe.curvature, recorded)

    @property
    def run(self) -> Path | None:
        """The folder of the recorded training of its model, if it was told of one."""
        run = self.manifest.model.get("options", {}).get("run")
        return None if run is None else Path(run)

    @cached_property
    def checkpoints(self) -> list[Index]:
        """An index for each further checkpoint.

        Raises:
            StoreError: one was not finished.
        """
        left = unfinished_checkpoints(self.path, self.manifest)
        if left:
            raise StoreError(
                f"{self.path} is unfinished, it lacks {len(left)} of its "
                f"{self.manifest.checkpoints} checkpoint(s): run its `headwater index` command "
                "again, it goes on where it stopped"
            )
        same = {"device": self.handed.device, "removed": self.removed}
        return [Index.open(at, **same) for at in checkpoint_folders(self.path, self.manifest)]

    # --- images -----------------------------------------------------------------------------

    @cached_property
    def training_set(self) -> TrainingSet:
        """The images the index was built from.

        Raises:
            DatasetError: they are not at their recorded source any more.
        """
        data = self.manifest.data
        return self._training_set or load_dataset(data["source"], **data["options"])

    @cached_property
    def pictures(self) -> TrainingSet:
        """The same images, where captions and fingerprint do not matter.

        Raises:
            DatasetError: they are not at their recorded source any more.
        """
        data = self.manifest.data
        return self._training_set or load_pictures(data["source"], **data["options"])

    def require_same_images(self) -> None:
        """Refuse images that have moved to other rows since the index was built.

        Raises:
            MismatchError: so they have.
        """
        there = self.pictures.samples
        for position, sample in zip(self.positions, self.samples, strict=True):
            if position >= len(there) or there[position].id != sample.id:
                raise MismatchError(
                    f"{self.pictures.source} is not what {self.path} was built from, "
                    f"{sample.id!r} is not at row {position}: build the index again"
                )

    def image(self, row: int) -> PIL.Image.Image | None:
        """The picture of an index row, or None where it cannot be opened any more.

        It is found by its id, since others may have gone or come since the index was built.
        """
        place = self.place_of(row) if self._are_there else None
        try:
            return None if place is None else self.pictures.image(place)
        except DatasetError:
            return None

    @cached_property
    def _are_there(self) -> bool:
        """Whether there are pictures to show, which is looked up and told once."""
        try:
            return len(self.pictures) > 0
        except DatasetError as error:
            warnings.warn(f"the pictures cannot be shown: {error}", HeadwaterWarning, stacklevel=4)
            return False

    def place_of(self, row: int) -> int | None:
        """Where an index row's picture is in `pictures`; None where it is not there any more."""
        id, position, there = self.samples[row].id, self.positions[row], self.pictures.samples
        if position < len(there) and there[position].id == id:
            return position
        return self._places.get(id)

    @cached_property
    def _places(self) -> dict[str, int]:
        """The position of each id in the images as they are now."""
        return {sample.id: place for place, sample in enumerate(self.pictures.samples)}

    @property
    def fingerprint(self) -> str:
        """A digest of the images that are asked, without those that were removed."""
        whole, gone = self.manifest.data["fingerprint"], sorted(self.removed)
        said = f"{whole} without {gone}"
        return hashlib.sha256(said.encode()).hexdigest() if gone else whole

    # --- features ---------------------------------------------------------------------------

    def residuals(self) -> Float[Tensor, "n p"] | None:
        """The residuals of each row's probes, where noise was drawn."""
        found = read_residuals(self.path, self.manifest.shards, self._verified)
        return found if found is None or self.inside is None else found[self.inside]

    @property
    def stored(self) -> Part:
        """Where the rows that are asked lie: in which shards, and which rows of these they are."""
        return Part(self.manifest, None if self.inside is None else self.inside.numpy())

    @property
    def stored_removed(self) -> Part:
        """The same of images that were removed; shards without any are left out."""
        inside = np.ones(self.manifest.rows, bool) if self.inside is None else self.inside.numpy()
        return without_idle_shards(Part(self.manifest, ~inside))

    def blocks(self) -> Iterator[Float[Tensor, "r k"]]:
        """The feature rows, shard by shard; checksums are verified once, and when files change."""
        return read_part(self.path, self.stored, self._verified, device=None)

    def scan(self, device: str = "cpu", rows: int | None = None) -> Iterator[Float[Tensor, "r k"]]:
        """The same, so many at a time, in one piece of memory: each is good until the next."""
        return read_part(self.path, self.stored, self._verified, device, rows)

    def some_rows(self, rows: Sequence[int]) -> StoredRows:
        """Some of them as they are stored, in the order that is asked for."""
        return read_rows(self.path, self.stored, rows, self._verified)

    def removed_blocks(self) -> Iterator[Float[Tensor, "r k"]]:
        """The feature rows of images that were removed, likewise."""
        return read_part(self.path, self.stored_removed, self._verified)


def recipe_of(folder: Path, manifest: Manifest) -> Recipe:
    """What the rows of an index were made with.

    Raises:
        StoreError: it is damaged, or of a version of which nothing is known here.
    """
    raw = dict(manifest.recipe)
    if raw["features_version"] != FEATURES_VERSION:
        raise StoreError(
            f"{folder} holds features of version {raw['features_version']}, this headwater "
            f"computes {FEATURES_VERSION}: build the index again with --overwrite"
        )
    try:
        raw |= {name: tuple(raw[name]) for name in ("layers", "timesteps")}
        recipe = Recipe(**raw)
        method_named(recipe.method)
        return recipe
    except TypeError as error:
        raise StoreError(
            f"{folder / 'index.json'} has a damaged recipe ({error}): build the index again with "
            "--overwrite"
        ) from None
