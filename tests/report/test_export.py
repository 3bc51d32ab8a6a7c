"""Answers: near-copies are one entry, every number is with its error, pictures are named so."""

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow

from headwater import Concept, Denoiser, Session, build_index, load_dataset
from headwater.cli.tables import table
from headwater.data.near_duplicates import distinct
from headwater.errors import HeadwaterWarning
from headwater.index.index import Index
from headwater.queries.image import Image
from headwater.queries.reward import Reward, Scorer
from headwater.report.export import DEEP, ends, entries, folders, to_json, write_answers
from headwater.report.figures import draw_figures, outlined
from headwater.scenes.dataset import pictures

PROMPT = "a red star in hatched style"
# Index rows in the order of their names: scenes 0 to 7, and which of them are copied.
COPIES = {0: 3, 2: 1}


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model) -> Session:
    """Eight scenes; of some also copies that a JPEG made."""
    folder = tmp_path_factory.mktemp("answers")
    captions = []
    (folder / "images").mkdir()
    for i, scene in enumerate(pictures("train")[:8]):
        for copy in range(1 + COPIES.get(i, 0)):
            file = f"{i}.png" if copy == 0 else f"{i}-{copy}.jpg"
            scene.draw().convert("RGB").save(folder / "images" / file, quality=80 - copy)
            captions.append({"file_name": file, "text": scene.caption})
    (folder / "images/metadata.jsonl").write_text("\n".join(map(json.dumps, captions)))
    denoiser, data = Denoiser.load(tiny_model), load_dataset(folder / "images")
    index = build_index(
        denoiser, data, folder / "index", method="trak", timesteps=2, dim=64, self_check=False
    )
    return Session(index)


@pytest.fixture(scope="module")
def index(session) -> Index:
    return session.index


@pytest.fixture(scope="module")
def attribution(session):
    return session.attribute(Image(PROMPT, draws=4))


def ranked_as(attribution, order):
    """The attribution with scores that put files in this order."""
    names = [sample.id for sample in attribution.index.samples]
    assert sorted(order) == sorted(names)
    scores = np.array([float(-order.index(name)) for name in names])
    return replace(attribution, scores=scores)


ORDER = ["1.png", "0-1.jpg", "0.png", "2.png", "0-3.jpg", "3.png", "4.png", "2-1.jpg"]
ORDER += ["0-2.jpg", "5.png", "6.png", "7.png"]


def said(shown):
    return [(each.ranked.rank, each.ranked.id, list(each.near_copies)) for each in shown]


def test_near_copies_are_one_entry_and_ranks_stay(attribution):
    both = ends(ranked_as(attribution, ORDER), 4)
    # Copies that rank below the last entry, here 0-2.jpg, are not looked for.
    assert said(both.top) == [
        (1, "1.png", []),
        (2, "0-1.jpg", ["0.png", "0-3.jpg"]),
        (4, "2.png", []),
        (6, "3.png", []),
    ]
    assert said(both.bottom) == [
        (1, "7.png", []),
        (2, "6.png", []),
        (3, "5.png", []),
        (4, "0-2.jpg", []),
    ]
    every = ends(ranked_as(attribution, ORDER), 12)
    assert sorted(len(each.near_copies) for each in every.top) == [0] * 6 + [1, 3]
    assert all(each.image is not None and each.image.size == (64, 64) for each in every.top)


def test_no_more_rows_are_opened_than_may_be(attribution, monkeypatch):
    opened = []
    image = attribution.index.image
    monkeypatch.setattr(attribution.index, "image", lambda row: opened.append(row) or image(row))
    ends(ranked_as(attribution, ORDER), 1)
    # Top: 1.png, then 0-1.jpg, which is another. Bottom: 7.png and 6.png.
    assert len(opened) == 2 * 2
    assert len(distinct([image(0)] * 99, 1, DEEP)[0]) == DEEP == 10


def test_without_pictures_nothing_is_grouped(attribution, tmp_path):
    folder = attribution.index.training_set.source
    moved = shutil.move(folder, tmp_path / "moved")
    try:
        lost = Index.open(attribution.index.path)
        with pytest.warns(HeadwaterWarning, match="the pictures cannot be shown"):
            both = ends(replace(ranked_as(attribution, ORDER), index=lost), 4)
    finally:
        shutil.move(moved, folder)
    assert said(both.top) == [(i + 1, ORDER[i], []) for i in range(4)]
    assert [each.image for each in both.top] == [None] * 4


def test_what_a_kill_left_goes_with_the_next_answer(session, attribution, tmp_path):
    """But not what another command is at."""
    ages = {"report.html.1.part": -90, "the-picture/top.png.2.part": -90,
            "the-picture/result.json.3.part": 3600}  # fmt: skip
    (tmp_path / "the-picture").mkdir()
    for name, age in ages.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() + age,) * 2)
    write_answers(session, [attribution], tmp_path, top=5)
    assert list(tmp_path.rglob("*.part")) == [tmp_path / "the-picture/result.json.3.part"]


def test_every_number_has_its_error(session, attribution, tmp_path):
    index, sure = attribution.index, attribution.certainty
    answer = write_answers(session, [attribution], tmp_path, top=5)
    stored = json.loads((tmp_path / "the-picture/result.json").read_text())
    (result,) = answer["results"]
    assert stored == {**result, "provenance": answer["provenance"]}
    assert result["certainty"] == {
        "draws": 4,
        "top": 10,
        "stability": round(sure.stability, 4),
        "correlation of halves": round(sure.halves, 4),
    }
    rows = {sample.id: row for row, sample in enumerate(index.samples)}
    for entry in result["top"] + result["bottom"]:
        row = rows[entry["id"]]
        assert entry["score"] == attribution.scores[row] and entry["error"] == sure.errors[row]
        assert entry["stays"] == sure.stays.get(row)
    assert [e["rank"] for e in result["top"]] == sorted(e["rank"] for e in result["top"])
    table = pq.read_table(tmp_path / "the-picture/scores.parquet").to_pydict()
    assert table["standard_error"] == sure.errors.tolist()
    shown = entries(ends(attribution, 5).top, sure)
    assert [(e.error, e.stays, e.k) for e in shown] == [
        (e["error"], e["stays"], 10) for e in result["top"]
    ]


def test_one_draw_has_no_error(session, tmp_path):
    attribution = session.attribute(Image(PROMPT, draws=1))
    answer = write_answers(session, [attribution], tmp_path, top=3)
    (result,) = answer["results"]
    assert result["certainty"] is None and {e["error"] for e in result["top"]} == {None}
    columns = pq.read_table(tmp_path / "the-picture/scores.parquet").column_names
    assert "standard_error" not in columns and "score" in columns
    said = "The scores have no standard errors: there was one draw."
    text = table(attribution, result["top"])
    assert "±" not in text and said in text
    page = (tmp_path / "report.html").read_text()
    assert "±" not in page and "random draws. When" not in page and said in page


def test_the_table_has_errors_and_near_copies_in_80_columns(attribution):
    ranked = ranked_as(attribution, ORDER)
    entries = to_json(ranked, ends(ranked, 4))["top"]
    entries[0]["caption"] = "a long caption " * 9
    entries[1]["caption"] = "another long caption " * 9
    entries[2]["error"], entries[2]["score"] = 1.234e-12, -1.234e-12
    lines = table(ranked, entries).splitlines()
    assert lines[1] == f"the picture of {PROMPT!r}"
    rows = lines[-4:]
    assert [len(row) for row in rows[:2]] == [80, 80] and max(map(len, rows)) == 80
    assert rows[1].endswith("… +2 near-copies") and "near-cop" not in rows[0]
    assert "-1.23e-12 ± 1.2e-12   2.png" in rows[2]
    start = lines[-5].index("id")
    assert [row[start:].split()[0] for row in rows] == ["1.png", "0-1.jpg", "2.png", "3.png"]


# --- what an answer may claim -------------------------------------------------------------------


def report_of(session, attribution, out):
    """The JSON answer, and the report without its provenance."""
    answer = write_answers(session, [attribution], out, top=5)
    return answer, (out / "report.html").read_text().partition('id="provenance"')[0]


def test_the_lack_of_a_concept(session, attribution, tmp_path):
    """Scores towards the lack of a star are not called scores towards it."""
    query = Concept(PROMPT, "star", context="prompt", swap=True)
    provenance = {**attribution.provenance, "query": {"context": "prompt", "swap": True}}
    swapped = replace(attribution, query=query, provenance=provenance)
    answer, page = report_of(session, swapped, tmp_path)
    (result,) = answer["results"]
    said = [result[key] for key in ("title", "concept", "plus", "minus")]
    assert said == ["the lack of star", "star", "a red in hatched style", PROMPT]
    assert result["query"]["swap"] and (tmp_path / "the-lack-of-star/top.png").exists()
    assert "pushes the model towards the lack of “star”." in page
    assert "pushes the model towards “star”" not in page and "The lack of “star”</em></h2>" in page
    assert "makes of “a red in hatched style” was compared with what it makes of “a red s" in page
    lines = table(swapped, result["top"]).splitlines()
    assert lines[1] == f"the lack of “star” in {PROMPT!r}"


def test_only_candidates_are_proponents_or_opponents(session, index, tmp_path):
    query = Image(PROMPT, draws=4)
    free = session.attribute(query)
    found = session.attribute(query, candidates="pixel:4")
    answer, page = report_of(session, found, tmp_path)
    (result,) = answer["results"]
    among = {index.samples[row].id for row in found.among}
    assert len(among) == 4
    assert {e["id"] for e in result["top"]} == among == {e["id"] for e in result["bottom"]}
    stored = pq.read_table(tmp_path / "the-picture/scores.parquet").to_pylist()
    assert [row["score"] for row in stored] == free.scores.tolist()
    assert {row["id"] for row in stored if row["candidate"]} == among
    ranked = sorted(stored, key=lambda row: (not row["candidate"], -row["score"]))
    assert [row["rank"] for row in ranked] == list(range(1, 13))
    said = "Only 4 of the 12 images competed, those most similar to what was asked for (pixel:4)."
    assert said in page and "Histogram of the scores of 4 candidates" in page
    assert said in " ".join(table(found, result["top"]).splitlines())


@pytest.mark.parametrize("method", ["das", "das-code"])
def test_a_square_claims_no_direction(session, attribution, tmp_path, method):
    squared = replace(attribution, method=method, scores=attribution.scores**2)
    answer, page = report_of(session, squared, tmp_path)
    assert "strongest influence on the picture" in page and "Weakest influence (" in page
    assert "pushes the model" not in page and "Proponents" not in page and "Opponents" not in page
    assert "scores are squares" in table(squared, answer["results"][0]["top"])


# --- where answers go ---------------------------------------------------------------------------


TITLES = {
    ("a", "a-3", "a"): ["a", "a-3", "a-2"],
    ("a", "a", "a-2", "A!"): ["a", "a-2", "a-2-2", "a-3"],
    ("?", "query", ""): ["query", "query-2", "query-3"],
}


@pytest.mark.parametrize("titles", TITLES)
def test_every_question_has_a_folder_of_its_own(attribution, titles):
    asked = [replace(attribution, query=Reward("", Scorer(title, title, len))) for title in titles]
    assert folders(asked) == TITLES[titles]


def test_no_answer_is_written_over_another(session, attribution, tmp_path):
    """Of three titles the numbered second would be where a second "a" goes, too."""
    asked = [
        replace(
            attribution,
            query=Reward(PROMPT, Scorer(title, title, len)),
            scores=attribution.scores + add,
        )
        for add, title in enumerate(("a", "a-3", "a"))
    ]
    write_answers(session, asked, tmp_path, top=2)
    for answer, folder in zip(asked, ("a", "a-3", "a-2"), strict=True):
        stored = pq.read_table(tmp_path / folder / "scores.parquet")["score"].to_pylist()
        assert stored == answer.scores.tolist()
        assert json.loads((tmp_path / folder / "result.json").read_text())["title"] == (
            answer.query.title
        )


# --- questions about pictures -------------------------------------------------------------------


@pytest.fixture
def mask(tmp_path, session):
    height, width = session.denoiser.image_size
    image = Pillow.new("L", (width, height))
    image.paste(255, (0, 0, width // 2, height))
    image.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_what_a_question_is_called(mask):
    assert Concept("a star", "star").name() == ("star", True)
    assert Image("a star").name() == ("the picture", False)
    assert Image("a star", step=499).name() == ("the picture at step 499", False)
    part = "the outlined part of the picture"
    assert Image("a star", mask=mask).name() == (part, False)
    assert Image("a star", mask=mask, step=9).name() == (f"{part} at step 9", False)


def drawn(session, query, method="journey-trak"):
    """Captions, and pictures as they can be compared."""
    return [
        (caption, picture.convert("RGB").tobytes())
        for caption, picture in draw_figures(session, query, method)
    ]


@pytest.mark.usefixtures("illustrations_take_fifty_steps")
def test_figures(session, mask):
    query = Image(PROMPT, mask=mask, step=499)
    made = session.picture(query)
    aimed = session.denoiser.decode(made.x0hats[499])[0]
    assert aimed.tobytes() != made.image.tobytes()
    plain, step, part, both = (
        drawn(session, each)
        for each in (
            Concept(PROMPT, "star"),
            replace(query, mask=None),
            replace(query, step=None),
            query,
        )
    )
    assert plain == [("", made.image.tobytes())]
    finished = ("The finished picture", made.image.tobytes())
    assert step == [("What the model aimed at, at step 499", aimed.tobytes()), finished]
    inside = Pillow.open(mask)
    whole = outlined(made.image, inside).tobytes()
    assert part == [("The part that was asked about", whole)]
    assert both == [(step[0][0], outlined(aimed, inside).tobytes()), finished]


def test_a_step_of_a_method_that_noises_the_finished_picture(session, tmp_path):
    query = Image(PROMPT, draws=2, step=19)
    made = session.picture(query)
    assert drawn(session, query)[0][0] == "What the model aimed at, at step 19"
    late, early = (draw_figures(session, replace(query, step=t), "trak") for t in (19, 999))
    assert late[0][0] == "The finished picture, noised as at step 19"
    assert early[0][0] == "The finished picture, noised as at step 999"
    finished = [(caption, image.tobytes()) for caption, image in (late[1], early[1])]
    assert finished == [("The finished picture", made.image.tobytes())] * 2
    noise, clean = np.asarray(early[0][1], float), np.asarray(made.image, float)
    near, far = (np.abs(np.asarray(shown[0][1]) - clean).mean() for shown in (late, early))
    assert 0 < near < far / 3 and noise.std() > 0
    attribution = session.attribute(query)
    write_answers(session, [attribution], tmp_path, top=3)
    page = (tmp_path / "report.html").read_text()
    assert "Asked of the picture, finished and noised as at step 19." in page
    assert "The finished picture, noised as at step 19" in page and "aimed at" not in page


def test_the_report_of_a_file(session, tmp_path):
    file = f"{session.index.training_set.source}/3.png"
    attribution = session.attribute(Image(file=file, draws=2))
    answer = write_answers(session, [attribution], tmp_path, top=3)
    page = (tmp_path / "report.html").read_text()
    assert "<title>Which training images taught the model this picture? · headwater</title>" in page
    assert f"<dt>File</dt><dd>{file}</dd>" in page and "<dt>Prompt</dt>" not in page
    assert answer["provenance"]["picture"] == {"file": file} and answer["prompt"] == ""
