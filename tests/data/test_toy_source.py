"""A new kind of source is one file like this and one row of the table."""

from PIL import Image
from support.pictures import same

from headwater.data import sources
from headwater.data.request import Request
from headwater.data.sources import Source, load_dataset
from headwater.data.training_set import TrainingSet, make_sample, make_training_set

COLOURS = ("red", "green", "blue")


def is_colours(request: Request) -> bool:
    return str(request.source).startswith("colours:")


def open_colours(request: Request) -> TrainingSet:
    side = int(str(request.source).partition(":")[2])
    samples = [make_sample(name, [f"a {name} square"], f"colours:{name}") for name in COLOURS]

    def square(row: int) -> Image.Image:
        return Image.new("RGB", (side, side), COLOURS[row])

    return make_training_set(str(request.source), samples, [side] * 3, square)


def test_a_row_of_the_table_adds_a_source(monkeypatch):
    row = Source("colours", is_colours, open_colours)
    monkeypatch.setattr(sources, "SOURCES", (row, *sources.SOURCES))
    data = load_dataset("colours:4", split="test")
    assert [sample.caption for sample in data.samples] == [f"a {name} square" for name in COLOURS]
    assert same(data.image(2), Image.new("RGB", (4, 4), "blue"))
    again = load_dataset(data.source, **data.options)  # as an index does
    assert again.fingerprint == data.fingerprint and data.options == {"split": "test"}
    assert len(load_dataset("scenes:validation")) > 3  # the others are as they were
