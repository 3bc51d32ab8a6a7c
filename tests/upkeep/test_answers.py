"""An answer is of the index that it says, or not; its scores as one table."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.command_line import FAST
from support.command_line import headwater as run
from support.tiny import tiny_folder

from headwater.errors import ParameterError, StoreError
from headwater.storage.files import write_text
from headwater.upkeep.answers import check_answer, export_answers
from headwater.upkeep.remove import remove, restore

ASK = ["a red star", "--concept", "red", "--concept", "star", "--draws", "2"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_model):
    """A folder with an index and an answer of two questions."""
    at = tmp_path_factory.mktemp("answers")
    images = tiny_folder(at / "images", 12)
    for seed in (0, 1):
        built = run("index", tiny_model, images, at / f"index-{seed}", "--seed", seed, *FAST)
        assert built.code == 0, built.err
    done = run("concept", at / "index-0", *ASK, "--out", at / "answer")
    assert done.code == 0, done.err
    return at


@pytest.fixture
def answer(asked, tmp_path) -> Path:
    return shutil.copytree(asked / "answer", tmp_path / "answer")


def test_an_answer_is_of_its_index(asked):
    result = asked / "answer" / "star" / "result.json"
    assert check_answer(asked / "index-0", result) == []
    done = run("verify", asked / "index-0", "--report", result)
    assert done.code == 0
    assert done.out.splitlines() == [
        f"{asked / 'index-0'} is whole",
        f"{result} is of it, and its scores are unchanged",
    ]
    told = run("verify", asked / "index-0", "--report", result, "--json")
    assert json.loads(told.out) == {"index": [], "report": []}


def test_an_answer_of_another_index_is_told(asked):
    result = asked / "answer" / "star" / "result.json"
    found = check_answer(asked / "index-1", result)
    assert [line.partition(":")[0] for line in found] == ["the rows", "the recipe's seed"]
    assert found[1] == "the recipe's seed: 0 in the answer, 1 in the index"
    refused = run("verify", asked / "index-1", "--report", result)
    assert refused.code == 2 and "is not of" in refused.err
    assert found[1] in refused.out


def test_removed_images_are_told(asked, tmp_path):
    index = shutil.copytree(asked / "index-0", tmp_path / "index")
    result = asked / "answer" / "star" / "result.json"
    remove(index, where=["id contains 00003"])
    (found,) = check_answer(index, result)
    assert found.startswith("removed images: none in the answer, 1 (rest: ")
    run("concept", index, *ASK, "--out", tmp_path / "less")
    assert check_answer(index, tmp_path / "less" / "star" / "result.json") == []
    restore(index)
    assert check_answer(index, result) == []


def test_scores_that_were_changed_or_lost_are_told(asked, answer):
    scores, result = answer / "star" / "scores.parquet", answer / "star" / "result.json"
    content = bytearray(scores.read_bytes())
    content[100] ^= 1
    scores.write_bytes(content)
    assert check_answer(asked / "index-0", result) == [
        "scores.parquet has changed since the answer was written"
    ]
    scores.unlink()
    (found,) = check_answer(asked / "index-0", result)
    assert found == "scores.parquet is missing beside the answer"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"provenance": 1, "files": {}}', "{" * 10_000])
def test_what_is_no_answer_is_refused(asked, tmp_path, text):
    write_text(tmp_path / "result.json", text)
    with pytest.raises(StoreError, match="is no answer that could be compared") as error:
        check_answer(asked / "index-0", tmp_path / "result.json")
    assert "\n" not in str(error.value)
    with pytest.raises(StoreError, match=r"there is no .*: give the result\.json"):
        check_answer(asked / "index-0", tmp_path / "none.json")


def test_a_name_in_an_answer_leads_nowhere_else(asked, answer):
    result = answer / "star" / "result.json"
    said = json.loads(result.read_text())
    write_text(result, json.dumps({**said, "files": {"../../index-0/index.json": "0"}}))
    assert check_answer(asked / "index-0", result) == ["index.json is missing beside the answer"]


def test_a_journey_too(asked, tiny_model, tmp_path):
    own = [*FAST, "--method", "journey-trak"]
    built = run("index", tiny_model, asked / "images", tmp_path / "index", *own)
    assert built.code == 0, built.err
    ask = ["--prompt", "a red star", "--journey", "--draws", "1"]
    done = run("image", tmp_path / "index", *ask, "--out", tmp_path / "journey")
    assert done.code == 0, done.err
    assert check_answer(tmp_path / "index", tmp_path / "journey" / "journey.json") == []
    assert export_answers(tmp_path / "journey", tmp_path / "scores.csv") == 12


def test_all_scores_as_one_table(answer, tmp_path):
    for kind in ("csv", "json", "parquet"):
        done = run("export", answer, tmp_path / f"scores.{kind}")
        assert done.out == f"24 rows in {tmp_path / f'scores.{kind}'}\n"
    exact = [
        {"question": name, **row}
        for name in ("red", "star")
        for row in pq.read_table(answer / name / "scores.parquet").to_pylist()
    ]
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == exact
    assert json.loads((tmp_path / "scores.json").read_text()) == exact
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: str(value) for name, value in row.items()} for row in exact]


def test_no_caption_is_a_formula_in_a_spreadsheet(answer, tmp_path):
    from headwater.storage.files import write_table

    table = pq.read_table(answer / "star" / "scores.parquet")
    captions = ["=cmd|' /C calc'!A0", "+1", "-1", "@x", *["plain"] * 8]
    index = table.column_names.index("caption")
    write_table(answer / "star" / "scores.parquet", table.set_column(index, "caption", [captions]))
    export_answers(answer / "star", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open(newline="") as file:
        shown = [row["caption"] for row in csv.DictReader(file)]
    assert shown[:5] == ["'=cmd|' /C calc'!A0", "'+1", "'-1", "'@x", "plain"]


def test_what_cannot_be_exported_is_refused(answer, tmp_path):
    with pytest.raises(ParameterError, match=r"must end in \.csv, \.json, \.parquet"):
        export_answers(answer, tmp_path / "scores.xls")
    with pytest.raises(StoreError, match=r"there is no scores\.parquet in"):
        export_answers(tmp_path, tmp_path / "scores.csv")
    (answer / "star" / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="cannot export"):
        export_answers(answer, tmp_path / "scores.csv")
