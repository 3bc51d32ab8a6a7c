"""`samples.parquet`: what is written comes back, and older tables without a column are read."""

import json

import pyarrow.parquet as pq
from support.pictures import loaded, write_pictures

from headwater import Denoiser, build_index
from headwater.cli.info import info
from headwater.data.training_set import make_sample
from headwater.index.index import Index
from headwater.index.samples import RowSamples, count_repeats, write_samples


def test_repeats_are_kept_and_shown(tmp_path, tiny_model, capsys):
    write_pictures(tmp_path / "data", "10_a star/a.png", "10_a star/b.png", "1_star/c.png")
    data, _ = loaded(tmp_path / "data")
    out = tmp_path / "index"
    build_index(Denoiser.load(tiny_model), data, out, timesteps=1, dim=16)
    assert list(Index.open(out).samples) == list(data.samples)
    assert count_repeats(out) == {1: 1, 10: 2}
    info(out, as_json=True)
    assert json.loads(capsys.readouterr().out)["repeats"] == "1 images once, 2 images 10 times"


def test_columns_that_say_nothing_are_left_out(tmp_path):
    samples = [make_sample(id, ["a cat"], id) for id in "ab"]
    write_samples(tmp_path, RowSamples(samples, [0, 1]))
    assert pq.read_schema(tmp_path / "samples.parquet").names == ["row", "id", "caption", "uri"]
    assert count_repeats(tmp_path) == {}


def test_a_table_that_is_damaged_has_no_repeats(tmp_path):
    assert count_repeats(tmp_path) == {}
    (tmp_path / "samples.parquet").write_bytes(b"PAR1")
    assert count_repeats(tmp_path) == {}
