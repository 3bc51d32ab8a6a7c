"""Tables, results and plots of an evaluation."""

import json
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image

from headwater.errors import HeadwaterError, StoreError
from headwater.evaluation.metrics.intervals import Interval, interval
from headwater.evaluation.reporting.plots import Labels, plot_bars, plot_curves, plot_points
from headwater.evaluation.reporting.results import cell, circumstances, markdown, write_results
from headwater.methods.table import METHODS
from headwater.storage.files import renamed

ROWS = [
    {"method": "trak", "asked": "image", "precision@10": Interval(0.853, 0.8191, 0.8815, 30)},
    {
        "method": "random",
        "asked": "concept",
        "precision@10": Interval(0.1, -0.0001, 0.2, 30),
        "isolation": Interval(-0.25, -1 / 3, 0.0, 12),
    },
]
ABOUT = {
    "command": "headwater evaluate retrieval 'an index' scenes out",
    "date": "2026-01-02T03:04:05+00:00",
    "settings": {"draws": 32},
    "versions": {"headwater": "0.1.0", "torch": "2.6"},
    "machine": "an abacus",
}


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, text",
    [
        (Interval(0.853, 0.8191, 0.8815), "0.853 [0.819, 0.881]"),
        (Interval(-0.0001, -1.0, 1.0, 4), "0.000 [-1.000, 1.000]"),
        (Interval(0.5, float("nan"), float("nan"), 1), "0.500 [-]"),
        (None, "-"),
        (0.5, "0.500"),
        (30, "30"),
        ("trak", "trak"),
    ],
)
def test_cells(value, text):
    assert cell(value) == text


def test_a_table():
    assert markdown(ROWS).splitlines() == [
        "| method | asked   |         precision@10 |      isolation (of 12) |",
        "| ------ | ------- | -------------------: | ---------------------: |",
        "| trak   | image   | 0.853 [0.819, 0.881] |                      - |",
        "| random | concept | 0.100 [0.000, 0.200] | -0.250 [-0.333, 0.000] |",
    ]
    assert markdown(ROWS).endswith("|\n")


def test_words_of_others_stay_in_their_cell():
    rows = [{"concept": "a|b\x1b[31m", "c\n|d": 1.0}]
    head, _, row = markdown(rows).splitlines()
    assert head.startswith(r"| concept      | c\n\|d |")
    assert row.startswith(r"| a\|b\x1b[31m |")


def test_an_interval_is_of_the_values_that_there_are():
    values = np.random.default_rng(0).normal(0.5, 0.1, 40).tolist()
    found = interval([None, *values, None])
    assert found is not None and found.n == 40
    assert found.mean == pytest.approx(np.mean(values))
    half = 1.96 * np.std(values) / np.sqrt(40)
    assert (found.high - found.mean, found.mean - found.low) == pytest.approx((half, half), rel=0.1)
    assert interval([None, None]) is None


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder(tmp_path):
    out = tmp_path / "made" / "out"
    written = write_results(out, "Retrieval", ABOUT, ROWS, ["a note"], concepts=["red"])
    assert {path.name for path in out.iterdir()} == {"table.md", "results.json"}
    assert json.loads((out / "results.json").read_text()) == written
    assert {name: written[name] for name in ABOUT} == ABOUT
    assert written["concepts"] == ["red"]
    assert written["rows"][1]["isolation"] == {
        "mean": -0.25, "low": -1 / 3, "high": 0.0, "n": 12,
    }  # fmt: skip
    assert "isolation" not in written["rows"][0]
    page = (out / "table.md").read_text()
    assert page.startswith(f"# Retrieval\n\n{markdown(ROWS)}\n- a note\n")
    for said in (ABOUT["command"], ABOUT["date"], "an abacus", "headwater 0.1.0, torch 2.6"):
        assert said in page


def test_what_a_kill_left_goes_with_the_next_run(tmp_path):
    """But not what another run is at."""
    with renamed(tmp_path / "results.json") as another:
        another.write_text("half")
        for name in ("results.json", "effects.png"):
            left = tmp_path / f"{name}.0123456789ab.part"
            left.write_text("half")
            os.utime(left, (time.time() - 90,) * 2)
        write_results(tmp_path, "Retrieval", ABOUT, ROWS)
        assert {path.name for path in tmp_path.glob("*.part")} == {another.name}
    assert (tmp_path / "results.json").read_text() == "half"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match=f"cannot write {tmp_path / 'file'}"):
        write_results(tmp_path / "file", "Retrieval", ABOUT, ROWS)


def test_circumstances_are_plain():
    found = circumstances()
    assert json.loads(json.dumps(found)) == found
    assert {"python", "headwater", "torch"} <= set(found["versions"])


# --- plots --------------------------------------------------------------------------------------


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def assert_nothing_cut_off(drawn: np.ndarray) -> None:
    """What was cut off would touch the edge."""
    assert drawn.std() > 10
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (edge == 255).all()


def test_bars_of_all_methods(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"method": name, "asked": kind, "isolation": Interval(x, x - 0.1, x + 0.05, 30)}
        for name, x, kind in zip(METHODS, rng.uniform(-0.3, 1, 99), "abc" * 33, strict=False)
    ]  # fmt: skip
    plot_bars(tmp_path / "all.png", rows, "isolation", title="Isolation", group="asked")
    plot_bars(tmp_path / "few.png", [*rows[:3], {"method": "none"}], "isolation")
    drawn, few = pixels(tmp_path / "all.png"), pixels(tmp_path / "few.png")
    assert_nothing_cut_off(drawn)
    assert_nothing_cut_off(few)
    assert len(drawn) >= 30 * len(METHODS)  # pixels for each bar
    assert len(few) < len(drawn) / 3


def test_bars_are_as_long_as_their_values(tmp_path):
    value = {"low": 0.5, "mean": 1.0}
    rows = [{"method": name, "x": Interval(mean, mean, mean)} for name, mean in value.items()]
    plot_bars(tmp_path / "bars.png", rows, "x")
    drawn = pixels(tmp_path / "bars.png").astype(int)
    blue = (drawn[..., 2] - drawn[..., 0] > 60).sum(1)  # of each line of pixels
    upper, lower = blue[: len(blue) // 2].max(), blue[len(blue) // 2 :].max()
    assert lower / upper == pytest.approx(0.5, abs=0.02)  # the highest comes first


def test_curves(tmp_path):
    ks = (25, 50, 100, 200)
    effects = {
        name: {k: Interval(-s * k, -s * k - 0.02, -s * k + 0.02) for k in ks}
        for s, name in zip((0.001, 0.002, 0.0), ("concept-trak", "trak", "random"), strict=True)
    }
    labels = Labels("images removed", "change of the rate")
    plot_curves(tmp_path / "curves.png", effects, labels)
    drawn = pixels(tmp_path / "curves.png").astype(int)
    assert_nothing_cut_off(drawn)
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3)}
    assert {(0, 0x72, 0xB2), (0xD5, 0x5E, 0), (0x55,) * 3} <= colours  # the last is the baseline


def test_points(tmp_path):
    names = ("concept-trak", "random", "another seed")
    places = {name: [(i / 5, i / 4), (0.5, 0.3)] for i, name in enumerate(names)}
    plot_points(tmp_path / "p.png", places, Labels("gone", "drop"), baselines=names[1:])
    drawn = pixels(tmp_path / "p.png").astype(int)
    assert_nothing_cut_off(drawn)
    assert {(0, 0x72, 0xB2), (0x55,) * 3} <= {tuple(colour) for colour in drawn.reshape(-1, 3)}


def test_plots_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(HeadwaterError, match=r"plots need .*: pip install 'headwater\[evaluate\]'"):
        plot_bars(tmp_path / "bars.png", ROWS, "precision@10")
    assert not list(tmp_path.iterdir())


def test_a_plot_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match="cannot write"):
        plot_bars(tmp_path / "file" / "bars.png", ROWS, "precision@10")
