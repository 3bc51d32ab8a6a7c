"""Answers on disk against docs/format.md: exactly the keys that it names, each of its type."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.tiny_clip import tiny_clip

from headwater import (
    Concept,
    Contribution,
    Denoiser,
    Image,
    Session,
    build_index,
    load_dataset,
    write_answers,
    write_journey,
)
from headwater.methods.row import QUESTIONS
from headwater.models.clip import Clip
from headwater.upkeep.remove import remove

PAGE = Path(__file__).parents[2] / "docs" / "format.md"
PROMPT = "a red star in hatched style"
TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict,
    "array": list, "null": type(None),
}  # fmt: skip


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table of the section, by the first cell of its head."""
    section = PAGE.read_text("utf-8").partition("\n## An answer\n")[2].partition("\n## ")[0]
    found: dict[str, list[list[str]]] = {}
    for head, body in re.findall(r"^\| (.+?) \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in body.splitlines()]
        found[head.strip("`")] = [[cell.strip() for cell in row] for row in rows]
    return found


TABLES = tables()
SEEN: dict[str, set[str]] = {}


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def check(what: str, given: dict, but: tuple[str, ...] = ()) -> None:
    """An object has the keys of a table, those that may be missing apart, and their types."""
    rows = [row for row in TABLES[what] for _ in names(row[0])]
    keys = [name for row in TABLES[what] for name in names(row[0])]
    required = {key for key, row in zip(keys, rows, strict=True) if row[2][:5] != "only "}
    assert required - set(but) <= set(given) <= set(keys) - set(but), what
    for key, (_, said, _) in zip(keys, rows, strict=True):
        types = tuple(TYPES[word] for word in re.split(r", | or ", said))
        flat = [t for each in types for t in (each if isinstance(each, tuple) else (each,))]
        assert key not in given or type(given[key]) in flat, (what, key, given[key])
    SEEN.setdefault(what, set()).update(given)


def check_result(result: dict, but: tuple[str, ...] = ()) -> None:
    """All of `result.json`, or of a step of a journey."""
    check("result.json", result, but)
    assert result["question"] in QUESTIONS
    for entry in result["top"] + result["bottom"]:
        check("an image", entry)
    if result["certainty"] is not None:
        check("certainty", result["certainty"])
    for group in result.get("groups", ()):
        check("a group", group)
    (known,) = (row[1] for row in TABLES["of"] if result["question"] in names(row[0]))
    by_method = [row[1] for row in TABLES["of"] if row[0].startswith("methods")]
    told = {name for cell in (known, *by_method) for name in names(cell)}
    assert {"draws", "seed"} <= set(result["query"]) <= told | {"draws", "seed"}


@pytest.fixture(scope="module")
def sessions(tmp_path_factory, tiny_model, tiny_images) -> dict[str, Session]:
    folder, denoiser = tmp_path_factory.mktemp("format"), Denoiser.load(tiny_model)
    data = load_dataset(tiny_images).first(12)
    recipe: dict[str, Any] = dict(self_check=False, timesteps=2, dim=32, parameters="attn2-kv")
    made = {}
    for method in ("trak", "concept-trak-unguided"):
        index = build_index(denoiser, data, folder / method, method=method, **recipe)
        remove(index.path, [data.samples[0].id])
        made[method] = Session.open(index.path, clip=Clip(tiny_clip(folder / "clip")))
    return made


ASKED = {
    "plain": ("trak", Image(PROMPT, draws=2, steps=4), {}),
    "by chance": ("trak", Concept(PROMPT, "star"), {"method": "random"}),
    "what it shows": ("trak", Concept(PROMPT, "star"), {"method": "presence"}),
    "in contexts": ("concept-trak-unguided", Concept(PROMPT, "star", draws=2), {}),
    "what words gain": ("concept-trak-unguided", Contribution(PROMPT, "star", draws=2), {}),
    "at two dampings": ("trak", Image(PROMPT, draws=2, steps=4), {"damping": (0.1, 1.0)}),
    "of some": ("trak", Image(PROMPT, draws=2, steps=4), {
        "candidates": "clip:3", "where": ["caption contains a"],
        "among": [f"train-{i:05}.png" for i in range(1, 9)],
        "group_by": {"first": ["train-00001.png", "train-00002.png"]},
    }),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")  # of a model of noise
def test_a_result_has_what_the_page_says(sessions, tmp_path):
    for name, (method, question, options) in ASKED.items():
        session = sessions[method]
        answers = [session.attribute(question, **options)]
        write_answers(session, answers, tmp_path / name, top=2)
        (file,) = (tmp_path / name).glob("*/result.json")
        result = json.loads(file.read_text())
        check_result(result)
        check("provenance", result["provenance"])
        assert set(result["provenance"]["picture"]) == {"guidance", "steps", "seed"}
        parts = {path.name for path in file.parent.iterdir()}
        assert parts == {"result.json", "scores.parquet", "top.png", "bottom.png"}
    elsewhere = {"result.json": {"file"}}  # of a feature that was given
    for what in ("result.json", "an image", "certainty", "a group", "provenance"):
        documented = {name for row in TABLES[what] for name in names(row[0])}
        assert documented - SEEN[what] == elsewhere.get(what, set()), what


def test_a_journey_has_what_the_page_says(sessions, tmp_path):
    session, question = sessions["trak"], Image(PROMPT, draws=2, steps=4)
    steps = session.attribute_steps(question)
    judge = lambda images: {"a star": [0.5] * len(images)}  # noqa: E731
    write_journey(session, question, steps, tmp_path, 2, judge)
    journey = json.loads((tmp_path / "journey.json").read_text())
    check("journey.json", journey)
    check("provenance", journey["provenance"])
    for step in journey["steps"]:
        assert type(step.pop("step")) is int
        check_result(step, but=("files", "provenance"))
    documented = {name for row in TABLES["journey.json"] for name in names(row[0])}
    assert documented == set(journey)


def test_every_kind_of_question_has_its_place():
    (cell,) = (row[2] for row in TABLES["result.json"] if row[0] == "`question`")
    assert {*names(cell), "journey"} == set(QUESTIONS)
    assert {name for row in TABLES["of"] for name in names(row[0])} >= set(names(cell))
