"""Pictures are opened ahead, once, in order, within bounds of number and memory."""

import time

import pytest
from PIL import Image
from support.pictures import noise, same, write_pictures

from headwater.data import prefetch
from headwater.data.prefetch import AHEAD, Reader, reading
from headwater.data.sources import load_dataset
from headwater.data.training_set import Sample, make_training_set
from headwater.errors import BadImageError


def drawn(n: int, side: int = 8):
    """A data set of n pictures, and the list of rows that have been opened."""
    opened: list[int] = []

    def open_image(row: int) -> Image.Image:
        opened.append(row)
        return Image.new("RGB", (side, side), (row, 0, 0))

    samples = [Sample(str(row), "", str(row)) for row in range(n)]
    return make_training_set("drawn", samples, (), open_image), opened


def settled(opened: list[int]) -> list[int]:
    """What has been opened once nothing more is."""
    count = -1
    while count != len(opened):
        count = len(opened)
        time.sleep(0.05)
    return list(opened)


def test_pictures_are_opened_ahead_and_once():
    data, opened = drawn(20)
    with reading(data) as reader:
        for row in (0, 1, 2, 1, 19):
            assert reader.image(row).getpixel((0, 0)) == (row, 0, 0)
    assert len(opened) == len(set(opened)) and {0, 1, 2, 19} <= set(opened)


def test_never_more_than_so_many_are_ahead():
    data, opened = drawn(1000)
    with reading(data) as reader:
        reader.image(0)
        assert settled(opened) == list(range(AHEAD))
        reader.image(10)
        assert settled(opened) == list(range(AHEAD + 10))


def test_only_rows_that_are_asked_for_are_opened():
    data, opened = drawn(100)
    with reading(data, range(10, 20)) as reader:
        assert reader.image(10).getpixel((0, 0)) == (10, 0, 0)
        assert settled(opened) == list(range(10, 20))
        assert reader.image(50).getpixel((0, 0)) == (50, 0, 0)  # which nobody promised
    assert opened == [*range(10, 20), 50]


def test_memory_is_bounded_also_while_a_batch_is_tried_again(monkeypatch):
    data, opened = drawn(40, side=16)
    monkeypatch.setattr(prefetch, "HELD_BYTES", 5 * 16 * 16 * 4)
    most = []
    with reading(data) as reader:
        for row in (*range(8), *range(8), *range(4), *range(40)):
            assert reader.image(row).getpixel((0, 0)) == (row, 0, 0)
            settled(opened)
            most.append(reader.held_bytes)
    assert max(most) <= prefetch.HELD_BYTES
    assert set(opened) == set(range(40))


def test_a_picture_larger_than_the_bound_is_read_all_the_same(monkeypatch):
    data, _ = drawn(5, side=16)
    monkeypatch.setattr(prefetch, "HELD_BYTES", 100)
    with reading(data) as reader:
        assert [reader.image(row).getpixel((0, 0))[0] for row in range(5)] == list(range(5))


def test_rows_may_be_skipped_and_gone_back_to():
    data, _ = drawn(300)
    with reading(data) as reader:
        for row in (0, 200, 3, 299, 150, 0):
            assert reader.image(row).getpixel((0, 0)) == (row % 256, 0, 0) or row > 255


def test_a_bad_picture_is_named_when_it_is_asked_for(tmp_path):
    write_pictures(tmp_path, *(f"{i}.png" for i in range(6)))
    (tmp_path / "3.png").write_bytes(b"no image")
    with reading(load_dataset(tmp_path)) as reader:
        reader.image(2)
        for _ in range(2):
            with pytest.raises(BadImageError, match=r"'3\.png'"):
                reader.image(3)
        assert same(reader.image(4), noise(4))


def test_a_reader_that_is_closed_still_reads():
    data, _ = drawn(3)
    reader = Reader(data)
    reader.close()
    assert reader.image(2).getpixel((0, 0)) == (2, 0, 0)
