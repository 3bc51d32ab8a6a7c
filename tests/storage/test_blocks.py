"""Rows of an index divided among those who read them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headwater.storage.blocks import Part, divided, narrowed, read_part, without_idle_shards
from headwater.storage.manifest import Manifest, Shard
from headwater.storage.shards import ShardRows, write_shard


def manifest_of(sizes):
    shards = tuple(Shard(f"{i}", 0, rows, (), 1, f"xxh3:{i}") for i, rows in enumerate(sizes))
    return Manifest({"dim": 2}, {}, {}, {}, 4, shards=shards)


def sizes_of(parts):
    return [[shard.rows for shard in part.manifest.shards] for part in parts]


@pytest.mark.parametrize(
    "sizes, count, expected",
    [
        ([4, 4, 4, 1], 1, [[4, 4, 4, 1]]),
        ([4, 4, 4, 1], 2, [[4, 4], [4, 1]]),
        ([4, 4, 4, 1], 9, [[4], [4], [4], [1]]),
        ([1, 100], 2, [[1], [100]]),
        ([100, 1, 1], 2, [[100], [1, 1]]),
        ([4, 0, 4], 2, [[4], [0, 4]]),
    ],
)
def test_parts_are_whole_shards_about_alike_in_rows(sizes, count, expected):
    found = sizes_of(divided(Part(manifest_of(sizes)), count))
    assert [[rows for rows in part if rows] for part in found] == [
        [rows for rows in part if rows] for part in expected
    ]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 25), st.data())
def test_every_chosen_row_is_in_one_part(sizes, count, data):
    total = sum(sizes)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), bool)
    whole = Part(manifest_of(sizes), chosen)
    parts = divided(whole, count)
    assert sum(map(len, parts)) == len(whole) == chosen.sum()
    assert len(parts) <= count and all(len(part) for part in parts)
    names = [shard.file for part in parts for shard in part.manifest.shards]
    assert names == sorted(names, key=int) and len(set(names)) == len(names)
    for part in parts:
        assert part.chosen is None or len(part.chosen) == part.manifest.rows
        # no part is longer than its share and the halves of two shards
        assert part.manifest.rows <= total / count + max(sizes)


def test_rows_of_a_part_are_those_chosen(tmp_path):
    """And shards that hold none of them are not there at all."""
    rows, manifest = torch.arange(1.0, 25.0).view(12, 2), manifest_of([])
    made = [
        write_shard(
            tmp_path, manifest, i, ShardRows(rows[4 * i : 4 * i + 4], range(4 * i, 4 * i + 4))
        )
        for i in range(3)
    ]
    manifest = Manifest({"dim": 2}, {}, {}, {}, 4, shards=tuple(made))
    (tmp_path / made[1].file).unlink()
    chosen = np.zeros(12, bool)
    chosen[[0, 3, 8, 9]] = True
    part = narrowed(Part(manifest, chosen), torch.tensor([True, False, True, True]))
    inside = without_idle_shards(part)
    assert len(inside.manifest.shards) == 2 and len(inside) == 3
    found = torch.cat([block.clone() for block in read_part(tmp_path, inside)])
    torch.testing.assert_close(found, rows[[0, 8, 9]], rtol=1e-3, atol=0)
    assert without_idle_shards(Part(manifest, np.ones(12, bool))).chosen is None
    blocks = [block.clone() for block in read_part(tmp_path, inside, rows=3)]
    assert [len(block) for block in blocks] == [1, 0, 2, 0]  # of two shards of four
    assert torch.equal(torch.cat(blocks), found)
