"""Small pictures, written as files and as tables, and what a data set warns of."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.errors import HeadwaterWarning


def noise(seed: int, size: int = 8) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.mode == other.mode == "RGB" and one.tobytes() == other.tobytes()


def message(excinfo) -> str:
    """The error's text, which is one line and no dump of Python objects."""
    text = str(excinfo.value)
    assert "\n" not in text and " at 0x" not in text
    return text


def write_pictures(folder: Path, *names: str) -> Path:
    """Each name as a picture of its own."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(noise(seed)))
    return folder


def loaded(source, **options) -> tuple[TrainingSet, list[str]]:
    """A data set, and the lines that are said of it, without the name of the source."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = load_dataset(source, **options)
    assert all(warning.category is HeadwaterWarning for warning in said)
    lines = [str(warning.message) for warning in said]
    assert not any("\n" in line for line in lines)
    return data, [line.removeprefix(f"{Path(source).resolve()}: ") for line in lines]


def captions_of(data: TrainingSet) -> dict[str, str]:
    """Captions by id."""
    return {sample.id: sample.caption for sample in data.samples}
