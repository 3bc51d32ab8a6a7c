"""The curvature of an index's model on its images: fitted before the rows, kept beside them.

Two passes over the images, each in parts that are files of their own until all are there: the sides
of each layer, whose eigenvectors are `bases.safetensors`, and then the moments in these bases,
`moments.safetensors`. A fit that was stopped goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from headwater.curvature.basis import Basis, basis_of
from headwater.curvature.factors import added, eigenbases, shape_of, widths
from headwater.curvature.moments import products
from headwater.curvature.passes import PROBES, Look, factor_sums, looks, moment_sums
from headwater.curvature.whitening import DAMPING, Curvature, LayerCurvature, whitened
from headwater.data.prefetch import reading
from headwater.data.training_set import TrainingSet
from headwater.errors import StoreError
from headwater.features.batch import Batch, training_batches
from headwater.features.extractor import Extractor
from headwater.gradients.blocks import Form, forms_as_they_are
from headwater.gradients.layers import size
from headwater.index.config import Recipe
from headwater.index.machines import Former
from headwater.index.rows import Source, open_images
from headwater.runtime.batch_size import BatchSize
from headwater.storage import cache
from headwater.storage.files import read_tensors_and_metadata, write_tensors
from headwater.storage.manifest import Manifest

FOLDER = "curvature"
MOST_PARTS, PART_IMAGES = 32, 256
# More images than these, evenly spread, say next to nothing new of a mean over images.
MOST_IMAGES = 20_000
VERSION = 1

# What a batch of images, looked at in some way, adds to the sums.
Added = Callable[[Batch, Look], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Fit:
    """A fit under way, or done: whose, and where its files are.

    Attributes:
        images: how many the index is of.
        key: of all that the numbers depend on.
        metric: what rows were made with, as `digest` has it; empty where there are none.
    """

    folder: Path
    recipe: Recipe
    images: int
    key: str
    metric: str = ""

    @property
    def begun(self) -> bool:
        """Whether any of it is on disk."""
        return self.folder.exists() and any(self.folder.iterdir())

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return self.read("bases") is not None and self.read("moments") is not None

    @property
    def is_of_rows(self) -> bool:
        """Whether it is whole, and what rows were made with; of old indexes nothing tells."""
        return self.whole and self.metric in ("", self.digest())

    def read(self, name: str) -> dict[str, Tensor] | None:
        """A file of this fit; None where it is missing, damaged or of another."""
        found = self.read_with_digest(name)
        return None if found is None else found[0]

    def read_with_digest(self, name: str) -> tuple[dict[str, Tensor], str] | None:
        """The same, and the digest of its tensors."""
        found = read_tensors_and_metadata(self.folder / f"{name}.safetensors")
        if found is None or found[1].get("fit") != self.key:
            return None
        if found[1].get("name", name) != name:  # bases in the place of moments, say
            return None
        return found[0], found[1]["sha256"]

    def digest(self) -> str:
        """Of the numbers themselves, which another device or version rounds otherwise.

        Eigenvectors may even change their signs: rows made with others are of another metric.
        """
        found = [self.read_with_digest(name) for name in ("bases", "moments")]
        return metric_of(*(digest for _, digest in filter(None, found)))

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write one."""
        made = {key: value.cpu() for key, value in tensors.items()}
        write_tensors(self.folder / f"{name}.safetensors", made, {"fit": self.key, "name": name})


def metric_of(*digests: str) -> str:
    """One digest for those of bases and moments."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]


def fit_of(folder: Path, manifest: Manifest, recipe: Recipe) -> Fit:
    """The fit that belongs to an index."""
    model = manifest.model
    decides = ("curvature", "curvature_targets", "layers", "timesteps", "seed", "loss_weights")
    facts = {
        "version": VERSION,
        "model": [model["fingerprint"], model["dtype"]],
        "data": manifest.data["fingerprint"],
        "recipe": {name: getattr(recipe, name) for name in decides},
    }
    images = manifest.data["rows"]
    return Fit(folder / FOLDER, recipe, images, cache.key(facts), manifest.metric)


# --- the fit --------------------------------------------------------------------------------------

# Does parts of a pass: (its name, numbers of parts) -> each, when it is written.
Work = Callable[[str, Sequence[int]], Iterable[int]]


def fit_curvature(fit: Fit, layers: Mapping[str, nn.Module], work: Work) -> None:
    """Do what is missing of a fit."""
    bases = fit.read("bases")
    if bases is None:
        sums = _all_parts(fit, "factors", work)
        bases = eigenbases(sums, int(sums.pop("probes")))
        fit.write("bases", bases)
    if fit.read("moments") is None:
        moments = {}
        if to_look_at(fit.recipe, layers):
            sums = _all_parts(fit, "moments", work)
            probes = sums.pop("probes")
            moments = {name: (value / probes).float() for name, value in sums.items()}
        for name, layer in layers.items():
            if name not in moments:
                moments[name] = products(layer, name, bases)
        fit.write("moments", moments)
    for leftover in fit.folder.glob("*-*"):
        leftover.unlink()


def to_look_at(recipe: Recipe, layers: Mapping[str, nn.Module]) -> list[str]:
    """The layers whose moments the second pass sees: by K-FAC only those without sides."""
    whole = recipe.curvature == "ekfac"
    return [name for name, layer in layers.items() if whole or shape_of(layer) is None]


def _all_parts(fit: Fit, name: str, work: Work) -> dict[str, Tensor]:
    """The sums of all parts, in float64: there are many."""
    count = len(parts_of(fit.images))
    numbers = range(count)
    left = [number for number in numbers if fit.read(f"{name}-{number}") is None]
    bar = tqdm(total=count, initial=count - len(left), desc=f"curvature, {name}", delay=2)
    with bar:
        for _ in work(name, left):
            bar.update()
    return added(_doubled(fit.read(f"{name}-{number}")) for number in numbers)


def _doubled(part: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    assert part is not None, "a part was written a moment ago"
    return {name: value.double() for name, value in part.items()}


@dataclass(frozen=True)
class Images:
    """What is looked at, and by what. `encodings`: a folder that keeps the encoders' outputs."""

    machine: Extractor
    data: TrainingSet
    encodings: str | Path | None = None


def do_part(
    fit: Fit, images: Images, batch: BatchSize, skip_bad: bool, part: tuple[str, int]
) -> int:
    """Compute one part of a pass, (name of the pass, number), and write it."""
    name, number = part
    add, rows = _adder(fit, images.machine, name), parts_of(fit.images)[number]
    total: dict[str, Tensor] = {"probes": torch.zeros(())}
    for look in looks(images.machine):
        own = rows[look.first :: look.count]
        with reading(images.data, own) as reader:
            source = Source(images.machine, images.data, reader, images.encodings)

            def compute(few: Sequence[int]) -> dict[str, Tensor]:
                return added(
                    {**add(each, look), "probes": _probes(each, look)}  # noqa: B023 - called at once
                    for each in _batches(source, few, skip_bad)  # noqa: B023 - called at once
                )

            total = added([total, *batch.over(own, compute)])
    fit.write(f"{name}-{number}", total)
    return number


def _adder(fit: Fit, machine: Extractor, name: str) -> Added:
    targets = fit.recipe.curvature_targets
    if name == "factors":
        return lambda images, look: factor_sums(machine, images, look, targets)
    bases = fit.read("bases")
    assert bases is not None, "the first pass is done"
    wanted = to_look_at(fit.recipe, machine.layers)
    turned: dict[str, Basis] = {n: basis_of(machine.layers[n], n, bases) for n in wanted}
    return lambda images, look: moment_sums(machine, turned, images, look, targets)


def parts_of(images: int) -> list[range]:
    """The images of each part, of at most `MOST_IMAGES` in all that are spread evenly.

    >>> [len(part) for part in parts_of(1000)], {len(part) for part in parts_of(10**8)}
    ([250, 250, 250, 250], {625})
    """
    chosen = range(0, images, -(-images // MOST_IMAGES))
    count = min(MOST_PARTS, -(-len(chosen) // PART_IMAGES))
    return [chosen[number::count] for number in range(count)]


def _batches(source: Source, rows: Sequence[int], skip_bad: bool) -> Iterator[Batch]:
    images, _ = open_images(source, rows, skip_bad)
    samples = [source.data.samples[row] for row in images]
    captions, ids = [s.all_captions for s in samples], [s.id for s in samples]
    if images:
        denoiser = source.machine.denoiser
        kept = None if source.encodings is None else Path(source.encodings)
        yield from (
            batch
            for _, batch in training_batches(denoiser, [*images.values()], captions, ids, kept)
        )


def _probes(images: Batch, look: Look) -> Tensor:
    return torch.tensor(float(len(images.x0) * len(look.spec.timesteps)))


# --- what it takes --------------------------------------------------------------------------------


def images_of_fit(recipe: Recipe, images: int) -> float:
    """A fit's work, in images whose rows take as long: 0 for a recipe without a curvature."""
    if not recipe.curvature:
        return 0
    passes = {"kfac": 1, "ekfac": 2}[recipe.curvature]
    looked_at = sum(map(len, parts_of(images)))
    return passes * looked_at * PROBES / (len(recipe.timesteps) * recipe.draws)


def fit_bytes(recipe: Recipe, layers: Collection[nn.Module]) -> int:
    """Of bases and moments on disk: 0 for a recipe without a curvature."""
    if not recipe.curvature:
        return 0
    shapes = [shape_of(layer) for layer in layers]
    sides = [side for shape in shapes if shape is not None for side in shape]
    return 4 * (sum(map(size, layers)) + sum(w * w + w for side in sides for w in widths(side)))


# --- what was fitted ------------------------------------------------------------------------------


def former_of(folder: Path, manifest: Manifest, recipe: Recipe, damping: float = DAMPING) -> Former:
    """The form of an index's gradients: as they are, or in the metric of its curvature.

    Args:
        damping: of a question's; that of images by default.
    """
    if not recipe.curvature:
        return forms_as_they_are
    fit = fit_of(folder, manifest, recipe)

    def former(layers: Mapping[str, nn.Module]) -> dict[str, Form]:
        curvature = load_curvature(fit, layers)
        return {name: whitened(layer, curvature[name], damping) for name, layer in layers.items()}

    return former


def load_curvature(fit: Fit, layers: Mapping[str, nn.Module]) -> Curvature:
    """The curvature of these layers.

    Raises:
        StoreError: a file of it is missing or damaged.
    """
    read = {name: fit.read_with_digest(name) for name in ("bases", "moments")}
    missing = [name for name, found in read.items() if found is None]
    if missing:
        raise StoreError(
            f"{fit.folder / missing[0]}.safetensors is missing or damaged: `headwater repair "
            f"{fit.folder.parent}` fits it anew"
        )
    (bases, of_bases), (moments, of_moments) = filter(None, read.values())
    if fit.metric and fit.metric != metric_of(of_bases, of_moments):
        raise StoreError(
            f"{fit.folder} is not what the rows were made with: `headwater repair "
            f"{fit.folder.parent}` makes these anew"
        )
    found = {}
    for name, layer in layers.items():
        device = next(layer.parameters()).device
        found[name] = LayerCurvature(basis_of(layer, name, bases), moments[name].to(device))
    return found
