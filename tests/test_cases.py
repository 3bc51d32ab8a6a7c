"""Inputs that failed somebody: the command that runs a folder of them, and that folder's cases."""

import json
import os
from pathlib import Path

import pytest
from support import run_cases


def write_case(folder: Path, script: str) -> None:
    folder.mkdir(parents=True)
    (folder / "run.sh").write_text(script)


def test_a_folder_with_one_right_and_one_wrong_case(tmp_path, capsys) -> None:
    write_case(tmp_path / "cases" / "01-right", 'echo "in $CASES_TMP"; echo "12 images"')
    write_case(tmp_path / "cases" / "02-wrong", "echo 15 images; echo noise; echo")
    expected = tmp_path / "expected.json"
    row = {"contains": ["^12 images"], "lacks": ["noise"]}
    expected.write_text(json.dumps({"cases": {"01-right": row, "02-wrong": row}}))

    code = run_cases.main([str(tmp_path / "cases"), "--expected", str(expected)])

    assert code == 1
    assert capsys.readouterr().out.splitlines() == [
        "case | result | last line",
        "01-right | right | 12 images",
        "02-wrong | wrong: lacks '^12 images'; has 'noise' | noise",
        "1 of 2 right",
    ]


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("echo done; exit 3", "exit code 3"),
        ("echo 'Traceback (most recent call last):'; echo E", "a traceback"),
    ],
)
def test_a_case_without_an_expectation_is_judged_by_how_it_ends(
    tmp_path, capsys, script, fault
) -> None:
    write_case(tmp_path / "01-made-up", script)
    assert run_cases.main([str(tmp_path)]) == 1
    assert f"01-made-up | wrong: {fault} | " in capsys.readouterr().out


def test_a_script_that_hangs_is_ended(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(run_cases, "SECONDS", 0.5)
    write_case(tmp_path / "01-hangs", "echo begun; sleep 600")
    assert run_cases.main([str(tmp_path)]) == 1
    assert "01-hangs | wrong: exit code 124 | begun" in capsys.readouterr().out


def test_scratch_is_where_cases_tmp_says_and_else_is_removed(tmp_path, capsys, monkeypatch) -> None:
    write_case(tmp_path / "cases" / "01-writes", 'touch "$CASES_TMP/kept"; echo "$CASES_TMP"')
    monkeypatch.setenv("CASES_TMP", str(tmp_path))
    assert run_cases.main([str(tmp_path / "cases")]) == 0
    assert (tmp_path / "kept").exists()
    monkeypatch.delenv("CASES_TMP")
    logs = tmp_path / "logs"
    assert run_cases.main([str(tmp_path / "cases"), "--logs", str(logs)]) == 0
    scratch = Path((logs / "01-writes.txt").read_text().strip())
    assert scratch != tmp_path and not scratch.exists()


def test_names_that_have_moved_are_replaced_in_a_copy(tmp_path, capsys) -> None:
    write_case(tmp_path / "cases" / "01-old", "echo from the old.house")
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps({"renamed": {"old.house": "new.house"}}))
    assert run_cases.main([str(tmp_path / "cases"), "--expected", str(expected)]) == 0
    assert "01-old | right | from the new.house" in capsys.readouterr().out
    assert "old.house" in (tmp_path / "cases" / "01-old" / "run.sh").read_text()


def test_a_folder_without_cases_is_refused(tmp_path, capsys) -> None:
    assert run_cases.main([str(tmp_path)]) == 2
    assert "has no cases" in capsys.readouterr().err


def test_every_case_comes_out_right(capsys) -> None:
    folder = os.environ.get("HEADWATER_CASES")
    if not folder:
        pytest.skip("HEADWATER_CASES names no folder of cases")
    code = run_cases.main([folder])
    assert code == 0, capsys.readouterr().out
