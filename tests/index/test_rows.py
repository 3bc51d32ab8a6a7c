"""Rows of a shard: what the batch size is measured on, and what is read for them."""

import shutil

import pytest
from support.index_files import RECIPE

from headwater import Denoiser, load_dataset
from headwater.data.prefetch import reading
from headwater.index.config import plan
from headwater.index.machines import extractor
from headwater.index.rows import Source, shard_rows
from headwater.runtime import batch_size
from headwater.runtime.batch_size import BatchSize


@pytest.fixture
def measured(monkeypatch):
    """Bytes that each measurement of a batch size found."""
    found = []
    real = batch_size.kept_bytes
    monkeypatch.setattr(
        batch_size, "kept_bytes", lambda attempt: found.append(real(attempt)) or found[-1]
    )
    return found


def with_bad(tiny_images, folder, bad):
    """A copy of the pictures in which those of the rows `bad` are no pictures."""
    shutil.copytree(tiny_images, folder)
    for row, sample in enumerate(load_dataset(tiny_images).samples):
        if row in bad:
            (folder / sample.id).write_bytes(b"no picture")
    return load_dataset(folder)


def shard(data, model, rows, batch):
    denoiser = Denoiser.load(model)
    ticks = []
    with reading(data, rows) as reader:
        source = Source(extractor(denoiser, plan(denoiser, **RECIPE)), data, reader)
        made = shard_rows(source, rows, batch, True, ticks.append)
    assert sum(ticks) == len(rows)
    return made


@pytest.mark.usefixtures("memory_is_tried")
def test_the_batch_size_is_measured_on_a_picture(tiny_images, tiny_model, tmp_path, measured):
    data = with_bad(tiny_images, tmp_path / "bad", {0, 1, 3})
    made, good, skipped = shard(data, tiny_model, range(6), BatchSize(None))
    assert len(measured) == 1 and measured[0] > 0
    assert good == [2, 4, 5] and len(made.features) == 3
    assert skipped == [data.samples[row].id for row in (0, 1, 3)]


@pytest.mark.usefixtures("memory_is_tried")
def test_a_shard_of_no_pictures_leaves_the_size_open(tiny_images, tiny_model, tmp_path, measured):
    data = with_bad(tiny_images, tmp_path / "bad", {0, 1})
    batch = BatchSize(None)
    made, good, skipped = shard(data, tiny_model, range(2), batch)
    assert not measured and not good and len(skipped) == 2 and len(made.features) == 0
    assert shard(data, tiny_model, range(2, 4), batch)[1] == [2, 3] and measured[0] > 0
