"""Rows in files of NumPy: with a header or bare, of any float, and what is none."""

import numpy as np
import pytest
import torch

from headwater.errors import StoreError
from headwater.storage import arrays
from headwater.storage.arrays import open_rows, row_blocks

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def read(path, dim=None):
    return torch.cat(list(row_blocks(open_rows(path, dim)))).numpy()


@pytest.mark.parametrize("type", [np.float16, np.float32, np.float64, ">f4"])
def test_any_float_with_a_header(tmp_path, type):
    np.save(tmp_path / "rows.npy", ROWS.astype(type))
    np.testing.assert_array_equal(read(tmp_path / "rows.npy"), ROWS)
    np.testing.assert_array_equal(read(tmp_path / "rows.npy", 3), ROWS)


def test_bare_numbers_need_a_length(tmp_path):
    path = tmp_path / "rows.npy"
    path.write_bytes(ROWS.tobytes())
    np.testing.assert_array_equal(read(path, 3), ROWS)
    np.testing.assert_array_equal(read(path, 6), ROWS.reshape(2, 6))
    with pytest.raises(StoreError, match=r"has no header, so nothing says how long its rows are"):
        open_rows(path, None)


def test_a_single_row_may_be_a_vector(tmp_path):
    np.save(tmp_path / "row.npy", ROWS[1])
    np.testing.assert_array_equal(read(tmp_path / "row.npy", 3), ROWS[1:2])


def test_files_are_mapped_and_read_in_part(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", ROWS)
    rows = open_rows(tmp_path / "rows.npy", 3)
    assert isinstance(rows, np.memmap)
    monkeypatch.setattr(arrays, "_BLOCK", 3 * 3 * 4)
    assert [len(block) for block in row_blocks(rows)] == [3, 1]
    monkeypatch.setattr(arrays, "_BLOCK", 1)  # a row is longer than a block
    assert [len(block) for block in row_blocks(rows)] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing: copy it there again"),
        (b"", "0 bytes are no whole number of rows of 3 float32"),
        (bytes(13), "13 bytes are no whole number of rows of 3 float32"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': ", "cannot be read"),
        (np.ones((2, 3), np.int32), "holds int32 of 2 x 3: give rows of floats"),
        (np.ones((2, 3, 3), np.float32), "holds float32 of 2 x 3 x 3: give rows of floats"),
        (np.ones((0, 3), np.float32), "holds float32 of 0 x 3: give rows of floats"),
        (np.ones((2, 4), np.float32), "has rows of 4 features, not of 3"),
        (np.array([[{}]], object), "cannot be read"),
    ],
)
def test_what_holds_no_rows(tmp_path, content, said):
    path = tmp_path / "rows.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(StoreError, match=said) as refusal:
        open_rows(path, 3)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
