"""Pictures of questions, kept so that nobody waits until they are drawn again; training images."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from headwater.data.training_set import TrainingSet
from headwater.errors import DatasetError
from headwater.index.index import Index
from headwater.models.sampling import Picture
from headwater.queries.query import Question
from headwater.storage import cache
from headwater.storage.files import changing, write_image, write_tensors


def remember_picture(folder: Path, facts: Any, make: Callable[[], Picture]) -> Picture:
    """The picture that is kept for these facts, or made and kept."""
    made: list[Picture] = []

    def compute() -> cache.Computed:
        made.append(make())
        return _to_tensors(made[0]), _note(made[0])

    entry = cache.remember(folder, facts, compute)
    return made[0] if made else _to_picture(entry)


def _to_tensors(picture: Picture) -> cache.Tensors:
    """Latents as they are, and the image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.image.save(buffer, "PNG")
    png = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    tensors = {"x0": picture.x0, "image": png}
    if picture.noise is not None:
        tensors["noise"] = picture.noise
    if picture.x0hats:
        tensors["x0hats"] = torch.cat(list(picture.x0hats.values()))
    return tensors


def _note(picture: Picture) -> dict[str, Any]:
    return {
        "timesteps": list(picture.x0hats),
        "guidance": picture.guidance,
        "steps": picture.steps,
    }


def _to_picture(entry: cache.Entry) -> Picture:
    tensors, note = entry.tensors, entry.note
    with PIL.Image.open(io.BytesIO(tensors["image"].numpy().tobytes()), formats=["PNG"]) as png:
        image = png.convert("RGB")
    x0hats = tensors["x0hats"].split(1) if "x0hats" in tensors else ()
    return Picture(
        image,
        tensors["x0"],
        tensors.get("noise"),
        dict(zip(note["timesteps"], x0hats, strict=True)),
        note["guidance"],
        note["steps"],
    )


# --- of the index ---------------------------------------------------------------------------------


def training_images(index: Index) -> TrainingSet:
    """The images that an index is asked for, by its rows; each is opened when it is looked at.

    Its `image` raises DatasetError where the images, or this one, are not at their recorded source
    any more.
    """

    def opened(row: int) -> PIL.Image.Image:
        try:
            place = index.place_of(row)
        except DatasetError as error:
            said = f"the question is asked on training images, and {error}"
            raise DatasetError(f"{said}; --pictures made asks on others") from None
        if place is None:
            id, source = index.samples[row].id, index.pictures.source
            raise DatasetError(
                f"{source} has no image {id!r} any more, on which the question is asked: put it "
                "back, or ask on others with --pictures made"
            )
        return index.pictures.image(place)

    # by the fingerprint of all, so that the others stay known when one is taken out
    data = index.manifest.data
    return TrainingSet(data["source"], index.samples, opened, data["fingerprint"])


# --- in the folder of an answer -------------------------------------------------------------------


def write_picture(out: Path, picture: Picture | None) -> None:
    """`query.png` and `query.safetensors`, if there is one, in the folder `out`, which is made.

    Raises:
        ResourceError, StoreError: it cannot be written.
    """
    with changing(out):
        out.mkdir(parents=True, exist_ok=True)
    if picture is None:
        return
    write_image(out / "query.png", picture.image)
    latents = {"latents": picture.x0.float().cpu()}
    if picture.noise is not None:
        latents["noise"] = picture.noise
    write_tensors(out / "query.safetensors", latents, {})


def making_of(picture: Picture | None, query: Question) -> dict[str, Any]:
    """What the picture of a question was made from, for provenance; nothing where it has none."""
    if picture is None:
        return {}
    if picture.noise is None:
        return {"file": str(getattr(query, "file", ""))}
    return {"guidance": picture.guidance, "steps": picture.steps, "seed": query.seed}
