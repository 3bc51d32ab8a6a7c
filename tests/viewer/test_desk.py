"""What happens when something on a page is clicked, without the page."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from support.page import FRESH, PROMPT, after, done
from support.pictures import encoded

from headwater import Concept, Contribution, Session, build_index, load_dataset
from headwater.errors import HeadwaterError, MethodError, QueryError
from headwater.methods.table import METHODS
from headwater.queries.outputs.output import OUTPUTS
from headwater.viewer import beside, fragments
from headwater.viewer import desk as doing
from headwater.viewer.answers import one_image, pictures, stages
from headwater.viewer.form import Form, complements_key, form_of

# --- questions ----------------------------------------------------------------------------------


def test_words_of_the_prompt_become_chips(desk):
    shown = done(doing.prompted(desk, FRESH | {"concepts": ["star", "moon"]}))
    assert shown["concepts"] == {
        "choices": ["red", "star", "plain", "background"],
        "value": ["star"],
    }
    assert shown["against"] == "a red on a plain background"
    kept = done(doing.prompted(desk, FRESH))["concepts"]
    assert kept == {"choices": ["red", "star", "plain", "background"]}
    assert "concepts" not in done(doing.prompted(desk, FRESH | {"words": kept["choices"]}))
    both = FRESH | {"concepts": ["star", "red"]}
    assert done(doing.chosen(desk, both))["against"].splitlines() == [
        "a red on a plain background",
        "a star on a plain background",
    ]


def test_an_answer_comes_early_and_then_whole(desk, sessions):
    seen = [update["found"] for update in doing.ask(desk, FRESH) if "found" in update]
    assert [found.draws for found in seen] == [4, 6] and [f.last for f in seen] == [False, True]
    same = sessions["all"].attribute(Concept(PROMPT, "star", draws=6))
    np.testing.assert_array_equal(seen[1].answers[0].scores, same.scores)


def test_the_answer_shows_what_a_reader_must_know(star):
    text = star["answers"]
    assert '“<em dir="auto">star</em>”' in text and "Proponents" in text
    top = star["found"].answers[0].top(3)
    rows = [f'data-row="{entry.row}"' for entry in top]
    assert all(row in text for row in rows)
    assert "stays in the top" in text and "6 random draws" in text
    assert "It does not say that a picture is a copy" in text
    assert "6 draws" in star["status"] and "more are being made" not in star["status"]
    assert star["link"].startswith("?prompt=a+red+star") and "draws=6" in star["link"]
    assert star["pictures"] == ""  # they are drawn after it


def test_pictures_are_drawn_one_by_one(desk, star):
    updates = beside.pictured(desk, star)
    seen = [update["pictures"] for update in updates if "pictures" in update]
    assert [text.count("<img") for text in seen] == [0, 1, 2]
    assert [text.count("not drawn yet") for text in seen] == [2, 1, 0]
    assert all("without “star”" in text for text in seen)
    assert not list(beside.pictured(desk, FRESH))


def test_who_asks_need_not_wait_for_a_picture(sessions, monkeypatch):
    """A question is answered between two steps of a picture that is drawn."""
    session, drawing, order = sessions["all"], threading.Event(), []

    def question():
        drawing.wait(60)
        with session.lock:
            order.append("asked")
        asked.set()

    asked = threading.Event()
    monkeypatch.setattr(pictures.time, "sleep", lambda seconds: (drawing.set(), asked.wait(60)))
    other = threading.Thread(target=question)
    other.start()
    pictures.drawn(session, PROMPT, Form(seed=4321))
    order.append("drawn")
    other.join(60)
    assert order == ["asked", "drawn"]


@pytest.mark.parametrize("ask", ["contribution", "loss"])
def test_an_output_is_asked_for(tmp_path, folders, sessions, ask):
    """What the model would lack; the pictures are drawn without the words all the same."""
    other = build_index(
        sessions["all"].denoiser, load_dataset(folders["all"].parent / "images"), tmp_path / "trak",
        method="trak", timesteps=1, dim=32, parameters="attn2-kv", self_check=False,
    )  # fmt: skip
    desk = doing.Desk({"trak": Session(other)}, tmp_path)
    asked = FRESH | {"index": "trak", "ask_for": ask, "draws": 2}
    held = after(asked, doing.ask(desk, asked))
    (answer,) = held["found"].answers
    assert answer.query == OUTPUTS[ask](PROMPT, "star", draws=2)
    same = desk.sessions["trak"].attribute(OUTPUTS[ask](PROMPT, "star", draws=2))
    np.testing.assert_array_equal(answer.scores, same.scores)
    assert f"ask={ask}" in held["link"]
    assert [said for said, _ in pictures.pictured(held["found"].form)][1:] == ["without “star”"]
    opened = done(doing.opened(desk, {"index": "trak"}, parse_qsl(held["link"][1:])))
    assert opened["ask_for"] == ask
    np.testing.assert_array_equal(opened["found"].answers[0].scores, same.scores)


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_the_influence_is_shown_before_what_the_model_sees(usual, tmp_path):
    """At the damping of both together; it is said what is to come."""
    asked = FRESH | {"index": "usual", "ask_for": "contribution", "draws": 8}
    updates = doing.ask(doing.Desk({"usual": usual}, tmp_path), asked)
    (early, said), (late, told) = (
        (update["found"], update["status"]) for update in updates if "found" in update
    )
    assert (early.coming, late.coming) == (
        "more are being made, and what takes the method longer is added", ""
    )  # fmt: skip
    assert "ekfac, 4 draws" in said and early.coming in said
    assert "ekfac-presence, 8 draws" in told and "being made" not in told
    assert early.form == late.form == form_of(asked)
    (first,), (last,) = early.answers, late.answers
    question = Contribution(PROMPT, "star", draws=4)
    own = usual.attribute(question, method="ekfac", damping=METHODS["ekfac-presence"].damping)
    np.testing.assert_array_equal(first.scores, own.scores)
    whole = usual.attribute(replace(question, draws=8), method="ekfac-presence")
    np.testing.assert_array_equal(last.scores, whole.scores)


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_beside_a_whole_picture_nothing_is_sooner(usual, tmp_path):
    """Which another method answers, at a damping of its own."""
    form = replace(form_of(FRESH), ask="contribution", draws=8, whole=True)
    early, late = stages.ask(usual, form)
    methods = [[answer.method for answer in found.answers] for found in (early, late)]
    assert methods == [["ekfac", "ekfac-presence"]] * 2
    assert early.coming == "more are being made" and late.coming == ""
    with pytest.raises(MethodError, match="ekfac-presence cannot be asked for a whole image"):
        next(stages.ask(usual, replace(form, method="ekfac-presence")))


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_what_an_image_taught_is_asked_as_the_page_asks(usual, monkeypatch):
    """As what words gain, by the influence first; the page's guidance is of its own pictures."""
    asked, attribute = [], Session.attribute

    def listened(self, questions, **options):
        asked.append((questions, options))
        return attribute(self, questions, **options)

    monkeypatch.setattr(Session, "attribute", listened)
    form = Form(ask="contribution", guidance=2.0, draws=6, seed=1)
    (few, _), (all_of_them, places) = one_image.taught(usual, 0, form)
    assert (few, all_of_them) == (4, 6)
    (questions, early), (_, late) = asked
    assert (early["method"], late["method"]) == ("ekfac", None)
    assert questions[0].kind == "contribution" and questions[0].guidance == 5.0
    assert [place.title for place in places] == [each.concept for each in questions]


def test_more_draws_go_on(desk, star):
    more = done(doing.more(desk, star))
    assert more["draws"] == 12 and more["found"].draws == 12
    assert more["found"].answers[0].certainty.draws == 12
    form = replace(star["found"].form, draws=256)
    full = replace(star["found"], form=form, stage=form)
    with pytest.raises(QueryError, match="256 draws are as many as a page makes"):
        done(doing.more(desk, star | {"found": full}))


def test_choices_are_answered_again(desk, star, sessions):
    chosen = star | {"damping": 1.0, "shown": 2, "where": "folder is even", "group_by": "folder"}
    again = done(doing.again(desk, chosen))
    question = Concept(PROMPT, "star", draws=6)
    own = sessions["all"].attribute(question, damping=1.0, where=["folder is even"])
    np.testing.assert_array_equal(again["found"].answers[0].scores, own.scores)
    assert again["answers"].count("data-row") == 4 and "damping=1.0" in again["link"]
    assert "By folder" in again["distribution"] and "<svg" in again["distribution"]
    assert "even/" in again["answers"] and "odd/" not in again["answers"]


@pytest.mark.parametrize("handler", [doing.ask, doing.again])
def test_of_another_answer_nothing_stays_beside_it(desk, star, handler):
    beside_it = {
        "taught": "1 of 9",
        "journey": "Step 1",
        "compared": "here and there",
        "steps": [1],
    }
    now = after(star | beside_it, handler(desk, star | beside_it))
    assert not any(now[name] for name in beside_it)


def test_details_that_stand_open_have_the_ranks_of_the_answer_as_it_is_now(desk, star):
    found = star["found"]
    first = found.answers[0].top(1)[0]
    opened = after(star, beside.look(desk, star, first.row))
    assert "<td>1 of" in opened["detail"]
    turned = replace(found.answers[0], scores=-found.answers[0].scores)
    after_more = opened | {"found": replace(found, answers=(turned,))}
    (told,) = beside.refreshed(desk, after_more)
    assert told["detail"] != opened["detail"] and "<td>1 of" not in told["detail"]
    assert told["row"] == first.row
    assert not list(beside.refreshed(desk, star))  # none stands open
    assert not list(beside.refreshed(desk, after_more | {"row_of": "fewer"}))


def test_what_is_looked_at_is_of_the_index_that_answered(desk, star, sessions):
    """Though another was chosen since; choosing one clears what is shown."""
    chosen = star | {"index": "fewer"}
    assert "of 12" in done(beside.look(desk, chosen, 11))["detail"]
    again = done(doing.again(desk, chosen | {"shown": 2}))
    assert again["index"] == "all" and again["found"].answers[0].index is sessions["all"].index
    cleared = after(chosen, doing.switched(desk, chosen))
    assert cleared["found"] is None and cleared["answers"] == "" and cleared["left_out"] == []
    assert done(doing.ask(desk, cleared))["index"] == "fewer"
    with pytest.raises(QueryError, match="there is no image 11"):
        done(beside.look(desk, cleared, 11))


def test_a_complement_that_was_edited_is_asked(desk):
    held = after(FRESH, doing.chosen(desk, FRESH))
    (plain,) = done(doing.ask(desk, held))["found"].answers
    assert plain.query.minus is None
    edited = held | {"against": "a red moon on a plain background"}
    (asked,) = done(doing.ask(desk, edited))["found"].answers
    assert asked.query.minus == "a red moon on a plain background"
    # the page tells of a change of the prompt when it is set by a link, or a space is added
    for again in (doing.prompted, doing.chosen):
        assert "against" not in done(again(desk, edited | {"prompt": f"{PROMPT} "}))
    stale = edited | {"concepts": ["red"]}
    (other,) = done(doing.ask(desk, stale))["found"].answers
    assert other.query.concept == "red" and other.query.minus is None


@pytest.mark.filterwarnings("ignore::headwater.errors.HeadwaterWarning")
def test_a_link_names_its_index_and_method(desk, sessions):
    values = FRESH | {"index": "fewer", "method": "presence"}
    link = done(doing.ask(desk, values))["link"]
    opened = done(doing.opened(desk, {"index": "all"}, parse_qsl(link[1:])))
    assert opened["index"] == "fewer" and opened["method"] == "presence"
    answer = opened["found"].answers[0]
    assert answer.index is sessions["fewer"].index and answer.method == "presence"


def test_a_link_of_what_there_is_not(desk):
    """Lists of the page are not given what they do not hold."""
    pairs = [("prompt", PROMPT), ("ask", "os.remove"), ("damping", "0.5"), ("method", "none")]
    opened = done(doing.opened(desk, {"index": "all"}, pairs))
    assert (opened["ask_for"], opened["damping"], opened["method"]) == ("", 0.0, "")


def test_nothing_is_answered_again_before_it_was_asked(desk):
    assert not list(doing.again(desk, FRESH)) and not list(beside.left_out(desk, FRESH))


def test_a_link_is_asked_when_the_page_opens(desk, star):
    pairs = [("prompt", PROMPT), ("concepts", "star"), ("concepts", "red star"), ("draws", "5")]
    opened = done(doing.opened(desk, {"index": "all"}, pairs))
    assert opened["concepts"]["value"] == ["star"] and opened["phrase"] == "red star"
    assert len(opened["found"].answers) == 2 and opened["found"].draws == 5
    several = done(doing.opened(desk, {"index": "all"}, [*pairs, ("concepts", "a red star")]))
    assert several["phrase"] == "red star\na red star"
    assert set(done(doing.opened(desk, {"index": "all"}, []))) == {"status"}
    choices = done(doing.opened(desk, {"index": "all"}, [("draws", "4")]))
    assert choices["draws"] == 4
    # which a person may be writing while the page opens
    assert choices.keys().isdisjoint({"prompt", "words", "concepts", "phrase", "against"})


@pytest.mark.parametrize(
    "handler, changes, said",
    [
        (doing.ask, {"concepts": []}, "nothing is asked yet"),
        (doing.ask, {"index": "../etc"}, "there is no index '../etc' here"),
        (doing.ask, {"ask_for": "os.remove"}, "nothing is called 'os.remove': ask for slider, con"),
        (doing.ask, {"ask_for": "loss", "method": "presence"}, "presence cannot be asked for"),
        (
            doing.ask,
            {
                "ask_for": "loss",
                "against": "a moon",
                "against_of": complements_key(PROMPT, ("star",)),
            },
            "'a moon' is edited, and what words gain, and the loss, are of the prompt just",
        ),
        (doing.ask, {"where": "caption"}, "must be FIELD"),
        (doing.ask, {"group_by": "artist"}, "have no text 'artist'"),
        (doing.ask, {"group_by": "/etc/passwd.csv"}, "looks like a file"),
        (doing.ask, {"where": "caption is nothing"}, "no image"),
        (doing.more, {}, "there is no answer yet: ask first"),
        (beside.keep, {}, "there is no answer yet: ask first"),
        (beside.compare, {}, "there is no answer yet: ask first"),
        (beside.leave_out, {}, "there is no answer yet: ask first"),
        (beside.taught, {}, "no image is looked at: click one first"),
        (beside.taught, {"row": 12, "row_of": "all"}, "there is no image 12"),
        (beside.draw, {"prompt": ""}, "there is no prompt yet: write one"),
        (beside.journey, {"prompt": ""}, "a journey is of a picture that the model makes"),
        (doing.ask_of_picture, {"painted": None}, "there is no picture yet: drop one"),
    ],
)
def test_what_cannot_be_done_is_said(desk, handler, changes, said):
    with pytest.raises(HeadwaterError, match=said):
        done(handler(desk, FRESH | changes))


# --- one image ----------------------------------------------------------------------------------


def test_an_image_that_is_clicked_is_told_of(desk, star, sessions):
    answer = star["found"].answers[0]
    first = answer.top(1)[0]
    shown = done(beside.look(desk, star, first.row))
    assert (shown["row"], shown["row_of"]) == (first.row, "all") and first.id in shown["detail"]
    assert "1 of 12" in shown["detail"]
    assert "data-row" not in shown["detail"]
    coming, found = beside.neighbours(desk, after(star, [shown]))
    assert "Looking for its nearest neighbours" in coming["neighbours"]
    assert found["neighbours"].count("data-row") == one_image.NEIGHBOURS
    assert "<mark>star</mark>" in done(beside.look(desk, star, 11))["detail"]


def test_an_image_is_told_of_while_a_question_is_answered(desk, star, sessions):
    """Its neighbours come when that is done."""
    looked = threading.Thread(target=lambda: told.append(done(beside.look(desk, star, 3))))
    told = []
    with sessions["all"].lock:  # as whoever asks holds it
        looked.start()
        looked.join(60)
        assert not looked.is_alive() and "detail" in told[0]
        found = beside.neighbours(desk, after(star, told))
        assert "Looking for" in next(found)["neighbours"]
    assert "data-row" in next(found)["neighbours"]


def test_places_are_those_of_the_ranking(star):
    answer = star["found"].answers[0]
    ranks = [one_image.place(answer, entry.row).rank for entry in answer.top(12)]
    assert ranks == list(range(1, 13))


def test_neighbours_are_those_of_the_rows_themselves(sessions, monkeypatch):
    """In one pass over them: the row itself is looked up."""
    index = sessions["all"].index
    rows = np.concatenate([block.double().numpy() for block in index.blocks()])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    cosines[3] = -2
    sessions["all"].kernel().norms()  # which are kept
    passes, scan = [], index.scan
    monkeypatch.setattr(index, "scan", lambda *how: passes.append(how) or scan(*how))
    found = one_image.neighbours(sessions["all"], 3)
    assert len(passes) == 1
    assert [row for row, _ in found] == np.argsort(-cosines)[: one_image.NEIGHBOURS].tolist()
    np.testing.assert_allclose([c for _, c in found], np.sort(cosines)[::-1][:6], atol=1e-5)


@pytest.mark.parametrize("row", [-1, 12, 10**9, True, None, "3", {"a": 1}, 1.0])
def test_no_image_is_refused(desk, star, row):
    with pytest.raises(QueryError, match=r"there is no image|that is no image"):
        done(beside.look(desk, star, row))


def test_training_images_are_found_and_asked(desk):
    found = done(beside.search(desk, FRESH | {"search": "STAR"}))
    assert "data-row" in found["tiles"]
    assert "No caption holds" in done(beside.search(desk, FRESH | {"search": "xyz"}))["tiles"]
    taught = done(beside.taught(desk, FRESH | {"row": 0, "row_of": "all", "draws": 5}))["taught"]
    assert taught.count("of 12") >= 2


# --- pictures -----------------------------------------------------------------------------------


def test_a_picture_that_is_dropped_is_asked_about(desk, tmp_path):
    from headwater.viewer.editor import Painted  # with gradio: four seconds, for whom they are

    given, layer = tmp_path / "given.png", tmp_path / "layer.png"
    given.write_bytes(encoded(PIL.Image.new("RGB", (32, 32), "#cc3344")))
    painted = np.zeros((32, 32, 4), np.uint8)
    painted[8:24, 8:24] = 255
    layer.write_bytes(encoded(PIL.Image.fromarray(painted)))
    values = FRESH | {"index": "journeys", "method": "trak", "picture_prompt": "a star"}
    for layers, title in (([], "the picture"), ([layer], "the part inside the mask")):
        shown = done(doing.ask_of_picture(desk, values | {"painted": Painted(given, layers)}))
        query = shown["found"].answers[0].query
        assert query.title == title and query.prompt == "a star"
        assert Path(query.file).parent == desk.folder
    assert "picture" not in shown["link"]


def test_a_journey_is_walked(desk):
    values = FRESH | {"index": "journeys"}
    assert done(beside.journey(desk, values))["step"]["maximum"] == 2
    walked = after(values, beside.journey(desk, values))
    assert walked["step"] == 1 and len(walked["steps"]) == 2
    assert "Step 1 of 2" in walked["journey"]
    second = done(beside.step(desk, walked | {"step": 2}))["journey"]
    assert "Step 2 of 2" in second and f"t = {walked['steps'][1].step}" in second
    for number in (0, 3, "2", None):
        assert not list(beside.step(desk, walked | {"step": number}))
    with pytest.raises(MethodError, match="cannot be asked for every step"):
        done(beside.journey(desk, FRESH))


# --- two indexes, and files ---------------------------------------------------------------------


def test_two_indexes_stand_side_by_side(desk, star, sessions):
    shown = done(beside.compare(desk, star))["compared"]
    there = sessions["fewer"].attribute(Concept(PROMPT, "star", draws=6))
    first = there.top(1)[0]
    rank = one_image.ranks_there(star["found"].answers[0], [first.id])[first.id]
    assert f"rank {rank} in the other" in shown and "<h3>fewer</h3>" in shown
    assert "<button" not in shown  # rows of two indexes: nothing there is clicked
    assert "not in the other index" in shown or "of the 3 highest stand among" in shown
    with pytest.raises(QueryError, match="there is no index 'else' here"):
        done(beside.compare(desk, star | {"other": "else"}))


def test_files_are_written(desk, star, sessions):
    files = [Path(file) for file in done(beside.keep(desk, star))["files"]["value"]]
    names = {file.name: file for file in files}
    assert set(names) == {"report.html", "star.json", "scores.csv", "scores.parquet", "answer.zip"}
    assert all(file.is_relative_to(desk.folder) for file in files)
    scores = pq.read_table(names["scores.parquet"])
    np.testing.assert_array_equal(scores["score"], star["found"].answers[0].scores)
    said = json.loads(names["star.json"].read_text())
    assert said["method"] == "concept-trak-unguided" and len(said["top"]) == 3
    assert len(names["scores.csv"].read_text().splitlines()) == 13


def test_a_journey_is_kept_with_the_answer(desk, sessions):
    values = after(FRESH | {"index": "journeys"}, doing.ask(desk, FRESH | {"index": "journeys"}))
    walked = after(values, beside.journey(desk, values))
    files = {Path(file).name: file for file in done(beside.keep(desk, walked))["files"]["value"]}
    page = Path(files["report.html"]).read_text()
    assert "<h2>Step by step</h2>" in page and page.count('alt="What the model aimed at') == 2
    table = pq.read_table(files["scores.parquet"]).to_pandas()
    assert list(table["question"]) == ["journey"] * 12 + ["star"] * 12
    first = walked["steps"][0]
    column = table[f"score at step {first.step}"][:12]
    np.testing.assert_array_equal(column, first.answer.scores)


def test_no_text_of_others_is_a_tag(desk, sessions):
    """Captions, names of files, prompts and groups are shown as they are."""
    strange = '<img src=x onerror="window.hit=1"> star'
    values = FRESH | {"prompt": strange, "shown": 12, "group_by": "id"}
    held = after(values, doing.ask(desk, values))
    held |= done(beside.look(desk, held, 11)) | done(beside.search(desk, FRESH | {"search": "<"}))
    held |= done(beside.taught(desk, held | {"row": 11, "row_of": "all"}))
    held |= done(beside.compare(desk, held))
    names = ("answers", "detail", "distribution", "tiles", "taught", "compared", "status")
    for name in names:
        assert "<img src=x" not in held[name] and "<i>11" not in held[name], name
    assert "&lt;img src=x" in held["answers"] and "&lt;i&gt;11" in held["detail"]


def test_it_is_said_which_index_follows_the_making_of_a_picture(sessions):
    """Before anybody clicks."""
    some = fragments.journeys_of(sessions)
    assert '<b dir="auto">journeys</b>: choose it as the index' in some and ">all<" not in some
    none = fragments.journeys_of({"all": sessions["all"]})
    assert "headwater index MODEL DATA NEW-INDEX --method journey-trak" in none
    assert fragments.journeys_of({"journeys": sessions["journeys"]}) == ""


def test_near_copies_of_an_image_are_opened(desk, star):
    """From its details, and from theirs it and the others."""
    found = star["found"]
    (ends,) = found.ends
    first, *rest = ends.top
    shown = {each.ranked.id for each in (*ends.top, *ends.bottom)}
    samples = found.answers[0].index.samples
    copies = [row for row, sample in enumerate(samples) if sample.id not in shown][:2]
    ids = tuple(samples[row].id for row in copies)
    folded = replace(ends, top=[replace(first, near_copies=ids), *rest])
    values = star | {"found": replace(found, ends=(folded,))}
    assert "Near-copies" not in done(beside.look(desk, star, first.ranked.row))["detail"]
    together = {first.ranked.row, *copies}
    for row in together:
        detail = done(beside.look(desk, values, row))["detail"]
        named = detail.split("Near-copies")[1]
        assert {int(each) for each in re.findall(r'data-row="(\d+)"', named)} == together - {row}
