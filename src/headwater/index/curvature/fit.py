"""The curvature of an index's model on its images: fitted before the rows, kept beside them.

Two passes over the images, each in parts that are files of their own until all are there: the sides
of each layer, whose eigenvectors are `bases.safetensors`, and then the moments in these bases,
`moments.safetensors`. A fit that was stopped goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from headwater.curvature.basis import Basis, basis_of
from headwater.curvature.factors import shape_of, widest, widths
from headwater.curvature.passes import PROBES
from headwater.curvature.whitening import DAMPING, Curvature, LayerCurvature, whitened
from headwater.errors import StoreError
from headwater.gradients.blocks import Form, forms_as_they_are
from headwater.gradients.layers import size
from headwater.index.config import Recipe
from headwater.index.curvature.origin import origin_of
from headwater.index.machines import Former
from headwater.storage import cache
from headwater.storage.files import changing, read_tensors_and_metadata, write_tensors
from headwater.storage.manifest import Manifest

FOLDER = "curvature"
MOST_PARTS, PART_IMAGES = 16, 256
# More images than these, evenly spread, say next to nothing new of a mean over images.
MOST_IMAGES = 20_000
# Of as many or more, each of two passes looks at half, the one at those that the other does not:
# moments of images that had no part in the bases are not too large along their own axes.
SHARED = 512
VERSION = 1

# The passes, and the file that is made of the parts of each.
RESULTS = {"factors": "bases", "moments": "moments"}


@dataclass(frozen=True)
class Fit:
    """A fit under way, or done: whose, and where its files are.

    Attributes:
        images: how many it is fitted to.
        key: of all that the numbers depend on.
        metric: what rows were made with, as `digest` has it; empty where there are none.
        is_taken_over: from another index, to whose images it was fitted.
    """

    folder: Path
    recipe: Recipe
    images: int
    key: str
    metric: str = ""
    is_taken_over: bool = False

    def parts(self, name: str) -> list[range]:
        """The images of each part of a pass."""
        assert self.recipe.curvature, "a recipe without one has no fit"
        return parts_of(self.recipe.curvature, self.images, name)

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
        found = read_tensors_and_metadata(self.file(name))
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
        write_tensors(self.file(name), made, {"fit": self.key, "name": name})

    def file(self, name: str) -> Path:
        """Where it is, or will be."""
        return self.folder / f"{name}.safetensors"

    def drop_damaged(self) -> None:
        """Remove what is there and cannot be used, so that what is there can.

        Raises:
            StoreError: the disk is read-only.
        """
        for name in RESULTS.values():
            if self.read(name) is None:
                with changing(self.file(name)):
                    self.file(name).unlink(missing_ok=True)


def metric_of(*digests: str) -> str:
    """One digest for those of bases and moments."""
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32]


def fit_of(folder: Path, manifest: Manifest, recipe: Recipe) -> Fit:
    """The fit that belongs to an index."""
    model, origin = manifest.model, origin_of(manifest)
    decides = ("curvature", "curvature_targets", "layers", "timesteps", "seed", "loss_weights")
    facts = {
        "version": VERSION,
        "model": [model["fingerprint"], model["dtype"]],
        "data": manifest.data["fingerprint"] if origin is None else origin.fingerprint,
        "recipe": {name: getattr(recipe, name) for name in decides},
    }
    images = manifest.data["rows"] if origin is None else origin.rows
    if _shared(recipe.curvature, _looked_at(images)):  # else as it always was
        facts["passes"] = "a half each"
    taken_over = origin is not None
    return Fit(folder / FOLDER, recipe, images, cache.key(facts), manifest.metric, taken_over)


def parts_of(curvature: str, images: int, name: str) -> list[range]:
    """The images of each part of a pass, of at most `MOST_IMAGES` that are spread evenly.

    >>> [len(part) for part in parts_of("ekfac", 1000, "moments")]
    [250, 250]
    >>> {len(part) for part in parts_of("kfac", 10**8, "factors")}
    {1250}
    """
    chosen = _looked_at(images)
    if _shared(curvature, chosen):
        chosen = chosen[list(RESULTS).index(name) :: 2]
    count = min(MOST_PARTS, -(-len(chosen) // PART_IMAGES))
    return [chosen[number::count] for number in range(count)]


def _looked_at(images: int) -> range:
    return range(0, images, max(1, -(-images // MOST_IMAGES)))


def _shared(curvature: str, chosen: range) -> bool:
    """Whether each of two passes looks at half of these images."""
    return curvature == "ekfac" and len(chosen) >= SHARED


# --- what it takes --------------------------------------------------------------------------------


def images_of_fit(recipe: Recipe, images: int) -> float:
    """A fit's work, in images whose rows take as long: 0 for a recipe without a curvature."""
    if not recipe.curvature:
        return 0
    passes = {"kfac": ["factors"], "ekfac": list(RESULTS)}[recipe.curvature]
    parts = chain.from_iterable(parts_of(recipe.curvature, images, name) for name in passes)
    return sum(map(len, parts)) * PROBES / (len(recipe.timesteps) * recipe.draws)


def fit_bytes(recipe: Recipe, layers: Collection[nn.Module]) -> int:
    """Of bases and moments on disk: 0 for a recipe without a curvature."""
    if not recipe.curvature:
        return 0
    sums, values = _of_blocks(layers)
    return sums + values + 4 * sum(map(size, layers))


def peak_bytes_of_fit(recipe: Recipe, layers: Collection[nn.Module], images: int) -> int:
    """The most that is on disk while it is fitted: all parts of a pass, and what is made of them.

    Args:
        images: how many the index is of.
    """
    if not recipe.curvature:
        return 0
    sums, values = _of_blocks(layers)
    whole = recipe.curvature == "ekfac"
    looked_at = 4 * sum(size(layer) for layer in layers if whole or shape_of(layer) is None)
    factors, moments = (len(parts_of(recipe.curvature, images, name)) for name in RESULTS)
    result = fit_bytes(recipe, layers)
    bases = sums + values  # of the first pass, whose parts go when they are there
    return max(factors * sums + bases, moments * looked_at + result)


def _of_blocks(layers: Collection[nn.Module]) -> tuple[int, int]:
    """Bytes of the matrices of all sides' blocks, and of their eigenvalues."""
    sides, most = [side for layer in layers for side in shape_of(layer) or ()], widest(layers)
    blocks = [width for side in sides for width in widths(side, most)]
    return 4 * sum(width * width for width in blocks), 4 * sum(blocks)


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
        StoreError: a file of it is missing, damaged, of another fit, or not of these layers.
    """
    read = {name: fit.read_with_digest(name) for name in ("bases", "moments")}
    missing = [name for name, found in read.items() if found is None]
    if missing:
        raise StoreError(
            f"{fit.folder / missing[0]}.safetensors is missing, damaged, or of a fit that is made "
            f"otherwise now: `headwater repair {fit.folder.parent}` fits it anew"
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
        basis = basis_of(layer, name, bases)
        if not (_fits_layer(basis, layer) and _are_moments(moments.get(name), layer)):
            raise StoreError(
                f"{fit.folder} is no curvature of the model's {name}, whatever its checksums say: "
                f"remove it, and `headwater repair {fit.folder.parent}` fits it anew"
            )
        found[name] = LayerCurvature(basis, moments[name].to(device))
    return found


def _fits_layer(basis: Basis, layer: nn.Module) -> bool:
    """Whether these are finite eigenvectors of the layer's sides, or of none."""
    blocks = [*basis.inputs, *basis.outputs]
    if not blocks:
        return True
    shape = shape_of(layer)
    are_square = all(q.dim() == 2 and q.shape[0] == q.shape[1] for q in blocks)
    if shape is None or not are_square or any(q.dtype != torch.float32 for q in blocks):
        return False
    widths_of = tuple(sum(map(len, side)) for side in (basis.outputs, basis.inputs))
    return widths_of == shape and all(bool(q.sum().isfinite()) for q in blocks)


def _are_moments(found: Tensor | None, layer: nn.Module) -> bool:
    """Whether there is one of each number of the layer, finite and not negative."""
    if found is None or found.dtype != torch.float32 or found.shape != (size(layer),):
        return False
    return bool(((found >= 0) & found.isfinite()).all())
