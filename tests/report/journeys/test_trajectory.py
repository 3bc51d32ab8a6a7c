"""What is written of a journey: its numbers, its sheet, and a report of every step."""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from support.report import AWKWARD, EMPTY_PAGE, ParsedPage, entry, made_up_journey

from headwater import Denoiser, build_index, load_dataset
from headwater.attribution.answer.bootstrap import correlations
from headwater.attribution.session import Session
from headwater.attribution.trajectory import overlaps
from headwater.errors import StoreError
from headwater.queries.image import Image
from headwater.report.journeys.trajectory import DEPTH, write_journey
from headwater.report.page import render_page

PROMPT = "a red star in hatched style"
PASSED = [999, 739, 499, 239]  # the nearest to the index's 249, 499, 749, 999
ASK = Image(PROMPT, draws=3, seed=2)


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, tiny_images) -> Session:
    folder, denoiser = tmp_path_factory.mktemp("journey"), Denoiser.load(tiny_model)
    data = load_dataset(tiny_images).first(9)
    recipe = dict(method="trak", self_check=False, timesteps=4, dim=64)
    return Session(build_index(denoiser, data, folder / "trak", **recipe))


def test_the_folder_of_a_journey(session, tmp_path):
    steps = session.attribute_steps(ASK)
    likely = {"a star": [0.0, 0.25, 0.5, 1.0], "neon": [0.1] * 4}
    answer = write_journey(session, ASK, steps, tmp_path, 3, lambda images: likely)
    names = {path.name for path in tmp_path.iterdir()}
    files = {"journey.json", "journey.png", "query.png", "query.safetensors", "report.html"}
    assert names == files | {"scores.parquet"}
    assert json.loads((tmp_path / "journey.json").read_text()) == answer
    assert [step["step"] for step in answer["steps"]] == PASSED
    scores = np.stack([one.scores for one in steps])
    np.testing.assert_allclose(answer["correlation"], correlations(scores), atol=1e-4)
    np.testing.assert_allclose(answer["overlap of top"], overlaps(scores, 3), atol=1e-4)
    lowest = overlaps(-scores, 3)
    np.testing.assert_allclose(answer["overlap of bottom"], lowest, atol=1e-4)
    assert answer["likelihood"] == likely
    page = (tmp_path / "report.html").read_text()
    assert "When does each feature appear?" in page and page.count('class="curve c') == 4
    assert ">a star</span>" in page and ">neon</span>" in page
    for step, attribution in zip(answer["steps"], steps, strict=True):
        assert [entry["id"] for entry in step["top"]] == [entry.id for entry in attribution.top(3)]
        assert step["certainty"]["draws"] == 3
    stored = pq.read_table(tmp_path / "scores.parquet")
    columns = [f"score at step {t}" for t in PASSED]
    assert stored.column_names == ["id", *columns, "caption", "uri"]
    np.testing.assert_array_equal(np.stack([stored[name] for name in columns]), scores)


def test_only_candidates_overlap(session, tmp_path):
    steps = session.attribute_steps(ASK, candidates="pixel:4")
    answer = write_journey(session, ASK, steps, tmp_path, 2)
    among = sorted(steps[0].among)
    scores = np.stack([one.scores for one in session.attribute_steps(ASK)])
    np.testing.assert_array_equal(np.stack([one.scores for one in steps]), scores)
    exact = overlaps(scores[:, among], 2)
    np.testing.assert_allclose(answer["overlap of top"], exact, atol=1e-4)
    stored = pq.read_table(tmp_path / "scores.parquet")["candidate"].to_pylist()
    assert [row for row, candidate in enumerate(stored) if candidate] == among
    assert "Only 4 of the 9 images competed" in (tmp_path / "report.html").read_text()


def test_a_journey_by_chance_claims_nothing(session, tmp_path):
    write_journey(session, ASK, session.attribute_steps(ASK, method="random"), tmp_path, 3)
    page = (tmp_path / "report.html").read_text()
    assert "The scores are random numbers" in page and "Highest 1" in page
    assert not re.search("[Pp]roponent|[Oo]pponent|pushed", page)


def test_the_report_shows_every_step(session, tmp_path):
    write_journey(session, ASK, session.attribute_steps(ASK), tmp_path, 10)
    page = (tmp_path / "report.html").read_text()
    assert "taught the model <em>this picture</em> at each step of its making?" in page
    assert "4, from 999 (noise) to 239" in page and "When does each feature" not in page
    assert "<code>query.seed</code>" in page and "Opponent 1" in page
    # The query, what each of four steps aimed at, and both ends below it.
    assert page.count("<img") == 1 + 4 * (1 + 2 * DEPTH) + 4 * 2  # and the first page once more
    assert not re.search(r"https?:|<script|url\(", page)
    tinted = [int(share) for share in re.findall(r"--share: (\d+)%", page)]
    assert len(tinted) == 3 * 16 and tinted.count(100) >= 12
    with Pillow.open(tmp_path / "journey.png") as sheet:
        assert sheet.width > 4 * 128 and sheet.height > (1 + 2 * DEPTH) * 128


def test_a_folder_that_cannot_be_made_is_one_line(session, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write .*file/out") as caught:
        write_journey(session, ASK, session.attribute_steps(ASK), tmp_path / "file/out", 3)
    assert "\n" not in str(caught.value)


# --- the page -------------------------------------------------------------------------------------


def page_of(journey) -> ParsedPage:
    return ParsedPage(render_page("journey.html", EMPTY_PAGE, journey=journey, images=2))


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_no_text_from_outside_becomes_markup(text):
    def page(words: str) -> ParsedPage:
        made = made_up_journey(remarks=[words])
        top = [entry(0, id=words, caption=words, copies=[words])]
        judged = {**made.compared, "likelihood": {words: [0.0, 1.0]}}
        columns = [replace(column, top=top) for column in made.columns]
        return page_of(replace(made, columns=columns, compared=judged))

    awkward, plain = page(text), page("plain")
    tags = [[(tag, set(attributes)) for tag, attributes in p.elements] for p in (awkward, plain)]
    assert tags[0] == tags[1]
    titles = {note["title"] for note in awkward.all("span", "note")}
    assert len(titles) == 2 and not re.search("[\x00-\x08\x1b\x7f-\x9f\u202e]", "".join(titles))


def test_columns_of_different_depth_leave_cells_empty():
    made = made_up_journey()
    first = replace(made.columns[0], top=[entry(0), entry(1, id="second")])
    page = page_of(replace(made, columns=[first, replace(made.columns[1], bottom=[])]))
    alts = [img["alt"].partition(":")[0] for img in page.all("img")]
    in_short = 2 * 2  # what both steps aimed at, and what stands highest there
    assert alts.count("Training image second") == 1 and len(alts) == in_short + 2 + 3 + 1
    assert "Proponent 2" in page.text and "Proponent 3" not in page.text
    assert "Opponent 1" in page.text and "Opponent 2" not in page.text
    assert "stay there when" not in page.text  # no step says how firm it is
    assert "stays in resamples" not in page.text
