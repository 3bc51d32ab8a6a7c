"""`headwater evaluate isolation | retrieval`: from indexes and a truth to a table."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command_line import assert_refused, headwater
from support.index_files import rewrite_manifest
from support.indexes import METHODS_HERE, WORDS, truths_of
from support.indexes import places as places  # a fixture

from headwater.evaluation.studies.method_scores import (
    QuestionOptions,
    open_indexes,
    score_concepts,
    select_methods,
)
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES
from headwater.storage.manifest import read_manifest

FAST = "--index {pixel} --methods concept-trak,pixel-cosine,random --draws 1 --guidance 2"
RETRIEVAL = f"evaluate retrieval {{concept}} {{truth}} {{out}} {FAST} --top 3"


def evaluated(command: str, **places: Path):
    return headwater(*(part.format(**places) for part in shlex.split(command)))


@pytest.fixture(scope="module")
def done(places):
    """A folder that the command has written, and what it said."""
    out = places["tmp"] / "retrieval"
    return out, evaluated(RETRIEVAL, **places, out=out)


def test_retrieval(places, done):
    out, result = done
    assert (result.code, result.err) == (0, "")
    page = (out / "table.md").read_text()
    table, _, told = result.out.partition("\n\n")
    assert table in page and told == f"Results: {out / 'table.md'}\n"
    results = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == [*METHODS_HERE, "the caption names it"]
    assert [row["asked"] for row in results["rows"]] == ["concept", "image", "concept", "caption"]
    assert [row["parameters"] for row in results["rows"]] == ["attn2-kv", None, None, None]
    assert {path.name for path in out.glob("*.png")} == {
        "precision.png", "average-precision.png", "isolation.png",
    }  # fmt: skip
    assert shlex.split(results["command"])[1:] == [
        part.format(**places, out=out) for part in shlex.split(RETRIEVAL)
    ]
    assert results["command"] in page and "precision@3: share of the 3 highest" in page
    assert [c["concept"] for c in results["concepts"]] == list(WORDS)
    assert [c["shows"] for c in results["concepts"]] == [
        sum(p.shows(word) for p in pictures()[:20]) for word in WORDS
    ]
    for row in results["rows"]:
        for metric, values in results["values"][row["method"]].items():
            there = [value for value in values if value is not None]
            if there:
                assert row[metric]["mean"] == pytest.approx(np.mean(there)), metric
                assert row[metric]["n"] == len(there)
    truths = truths_of(places)
    kept = score_concepts(
        select_methods(open_indexes([places["concept"], places["pixel"]]), METHODS_HERE),
        truths, QuestionOptions(1, guidance=2.0), out / "scores",
    )  # fmt: skip
    for name, rows in kept.items():
        tops = [np.argsort(-row)[:3] for row in rows]
        top = [truth.shows[best].mean() for truth, best in zip(truths, tops, strict=True)]
        assert results["values"][name]["precision@3"] == pytest.approx(top)


def test_the_model_itself_may_be_the_judge(places, tmp_path, monkeypatch):
    asked = []

    def judged(session, source):
        asked.append((session.index.path, source))
        return truths_of(places)

    monkeypatch.setattr("headwater.evaluation.ground_truth.presence.presence_truths", judged)
    command = "evaluate retrieval {pixel} presence:blue,red {out} --methods random --top 3 --json"
    result = evaluated(command, **places, out=tmp_path)
    assert result.code == 0, result.err
    assert asked == [(places["pixel"], "presence:blue,red")]
    assert [c["concept"] for c in json.loads(result.out)["concepts"]] == list(WORDS)


def test_isolation_of_the_scenes_in_json(places, tmp_path):
    command = "evaluate isolation {pixel} scenes {out} --methods random --json"
    result = evaluated(command, **places, out=tmp_path)
    shown = {w for p in pictures()[:20] for v in ATTRIBUTES.values() for w in v if p.shows(w)}
    assert result.code == 0 and result.err.startswith("warning: no image of the index shows ")
    results = json.loads(result.out)
    assert {each["concept"] for each in results["concepts"]} == shown
    assert all(len(each["others"]) == 3 for each in results["concepts"])
    row = results["rows"][0]
    alone = row["precision@10"]["mean"] - row["others@10"]["mean"]
    assert row["isolation"]["mean"] == pytest.approx(alone)
    assert {path.name for path in tmp_path.glob("*.png")} == {"precision.png", "isolation.png"}


REFUSED = {
    "no index": ("evaluate retrieval {tmp}/none {truth} {out}", "no index at {tmp}/none"),
    "no truth": ("evaluate retrieval {pixel} {tmp}/none {out}", "cannot read the truth '{tmp}/non"),
    "other images": (
        "evaluate retrieval {pixel} {truth} {out} --index {few}",
        "{few} is not of the images of {pixel}: leave it out",
    ),
    "not served": (
        "evaluate retrieval {pixel} {truth} {out} --methods d-trak",
        "no index here serves d-trak: build one with `--method d-trak` and give it as --index",
    ),
    "nothing to tell apart": (
        "evaluate isolation {pixel} {tmp}/one.json {out} --methods random",
        "no prompt of the truth names two of its concepts",
    ),
    "top": ("evaluate retrieval {pixel} {truth} {out} --top 0", "--top 0 must be at least 1"),
    "draws": ("evaluate retrieval {pixel} {truth} {out} --draws x", "--draws 'x' must be a number"),
    "no draws": (
        "evaluate retrieval {pixel} {truth} {out} --draws 0",
        "--draws 0 must be at least",
    ),
    "out": ("evaluate retrieval {pixel} {truth} {tmp}/file", "cannot write {tmp}/file: File ex"),
}


@pytest.mark.parametrize("command, said", REFUSED.values(), ids=REFUSED)
def test_refused(places, tmp_path, command, said):
    result = evaluated(command, **places, out=tmp_path / "out")
    assert_refused(result, said.format(**places))
    assert not list(tmp_path.rglob("*.*"))


def test_nothing_is_asked_where_no_plot_can_be_made(places, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = evaluated("evaluate retrieval {pixel} {truth} {out}", **places, out=tmp_path / "out")
    assert_refused(result, "plots need matplotlib: pip install 'headwater[evaluate]'")
    assert not (tmp_path / "out").exists()


def test_what_was_scored_needs_no_model(places, done, tmp_path):
    out, first = done
    moved = shutil.copytree(places["concept"], tmp_path / "concept")
    model = {**read_manifest(moved).model, "source": str(tmp_path / "gone")}
    rewrite_manifest(moved, model=model)
    again = evaluated(RETRIEVAL, **{**places, "concept": moved}, out=out)
    assert again == first
