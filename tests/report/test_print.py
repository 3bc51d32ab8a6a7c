"""A report on paper, A4, by Chromium: no picture is cut, nothing is too wide, and page one is all.

Skipped where there is no Chromium.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as Pillow
from support.pdf import Sheet, sheets
from support.report import (
    EMPTY_PAGE,
    answer,
    bar,
    colour,
    entry,
    made_up_journey,
    report,
    sure,
)

from headwater import (
    Concept,
    Denoiser,
    Image,
    Session,
    build_index,
    load_dataset,
    write_answers,
    write_journey,
)
from headwater.report.audit import Shown
from headwater.report.journeys.trajectory import journey_of
from headwater.report.page import render_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
A4, MARGIN = (210, 297), 16  # millimetres
POINT = 25.4 / 72
PROMPT = "a red star in hatched style"
LONG = "a lighthouse on a cliff in the evening light, painted in oil, with gulls above the waves, "
WORDS = ["lighthouse", "gulls", "an oil painting of a cliff in the evening", "waves", "sky", "red"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: make browser-test"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def printed(browser, tmp_path):
    """What a browser prints of a page, by its own size of paper; alone: only its first page."""

    def printed(text: str, alone: bool = False) -> list[Sheet]:
        (tmp_path / "report.html").write_text(text, encoding="utf-8")
        page = browser.new_page()
        page.goto((tmp_path / "report.html").as_uri())
        if alone:
            page.evaluate("""() => {
              while (document.querySelector('.brief').nextElementSibling)
                document.querySelector('.brief').nextElementSibling.remove();
            }""")
        pdf = page.pdf(prefer_css_page_size=True)
        page.close()
        return sheets(pdf)

    return printed


def picture(i: int) -> Pillow.Image:
    return Pillow.new("RGB", (200, 120 + 40 * (i % 5)), colour(i % 50))


def many(count: int, sign: int = 1) -> list:
    """Entries with captions from short to long, of pictures from wide to tall."""
    return [
        entry(
            i, id=f"a/folder/of/images/{i:05}-{'x' * 30}.png", caption=LONG * (i % 4),
            score=sign * (0.5 - i / 1000), error=0.0213, stays=0.9, copies=["a copy"] * (i % 3),
            image=picture(i),
        )
        for i in range(count)
    ]  # fmt: skip


def one(**changes):
    groups = [bar(f"an artist with the long name of {i}", 0.2 - i / 50, [picture(i)] * 5)
              for i in range(25)]  # fmt: skip
    fields = {"top": many(43), "bottom": many(17, -1), "groups": groups, "grouped_by": "artist"}
    return answer(certainty=sure(), remarks=[LONG * 3], **fields | changes)


def judged(steps: int):
    made = made_up_journey(range(999, 999 - 10 * steps, -10), 5)
    curves = {word: [i / steps for i in range(steps)] for word in WORDS}
    made.compared["likelihood"] = curves
    return made


SUM = "0123456789abcdef" * 4
ORIGIN = {
    "model": {"fingerprint": SUM}, "data": {"fingerprint": SUM}, "rows": [SUM] * 3,
    "recipe": {"layers": ["down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"] * 64},
}  # fmt: skip
ABOUT = {"provenance": ORIGIN, "method": "ekfac-presence", "prompt": LONG * 4}
SHOWN = [("", Pillow.new("RGB", (512, 512), colour(60)))]
PAIR = [(f"The {side} picture", SHOWN[0][1]) for side in ("one", "other", "last")]


def audit() -> str:
    """A report of captions."""
    found = [
        Shown(i + 1, f"{'x' * 40}-{i}.png", LONG * 3, "a lighthouse", "a tower", 0.9, picture(i))
        for i in range(23)
    ]
    kind = {"values": WORDS, "unseen": [], "agreed": 9, "wrong": found, "unsaid": []}
    return render_page(
        "audit.html", EMPTY_PAGE, images=99, wrong_count=23, unsaid_count=23, kinds=[kind] * 30,
        remarks=[LONG], wrong=found, unsaid=found,
    )  # fmt: skip


def several() -> str:
    """More answers than a first page has room for, with all that narrows them."""
    narrowed = {"left_out": bar("x", 0.1).group, "competing": range(400), "top": many(7)}
    answers = [one(concept=word, **narrowed) for word in [*WORDS, "more"]]
    return report(*answers, pictures=PAIR, journey=judged(3), **ABOUT)


REPORTS = {
    "one answer": lambda: report(one(), pictures=SHOWN, **ABOUT),
    "one answer, along its making": lambda: report(
        one(), pictures=SHOWN, journey=judged(20), **ABOUT
    ),
    "several answers": several,
    "a journey": lambda: render_page("journey.html", EMPTY_PAGE, journey=judged(20), images=9),
}


def millimetres(points: float) -> float:
    return points * POINT


@pytest.mark.parametrize("made", [*REPORTS.values(), audit], ids=[*REPORTS, "an audit"])
def test_no_picture_is_cut_and_nothing_is_too_wide(printed, made):
    text = made()
    pages = printed(text)
    for page in pages:
        assert list(map(millimetres, page.size)) == pytest.approx(A4, abs=0.5)
        assert millimetres(page.area.left) == pytest.approx(MARGIN, abs=0.5)
        assert page.scale == pytest.approx(0.75, abs=0.001)  # else it was made smaller to fit
        assert page.cut() == []
    assert sum(len(page.pictures) for page in pages) == text.count("<img")  # each once


@pytest.mark.parametrize("made", REPORTS.values(), ids=REPORTS)
def test_the_first_page_is_a_summary(printed, made):
    text = made()
    (summary,) = printed(text, alone=True)
    first = printed(text)[0]
    assert len(first.pictures) == len(summary.pictures)  # nothing of what follows stands there
    assert len(summary.pictures) >= 6


def test_what_is_too_wide_or_cut_is_found(printed):
    """The two tests above can fail."""
    text = REPORTS["one answer"]()
    wide = text.replace("</header>", '</header><p style="width: 900px; max-width: none">x</p>')
    assert printed(wide)[0].scale < 0.7
    cut = text.replace("</style>", "@media print {.images figure {break-inside: auto !important}}"
                       ".picture {height: 60cm}</style>")  # fmt: skip
    assert [box.kind for page in printed(cut) for box in page.cut() if box.kind == "picture"]


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, tiny_images) -> Session:
    folder, data = tmp_path_factory.mktemp("printed"), load_dataset(tiny_images).first(9)
    recipe = dict(method="trak", self_check=False, timesteps=4, dim=64)
    return Session(build_index(Denoiser.load(tiny_model), data, folder / "index", **recipe))


def test_a_report_of_answers_and_a_journey_that_were_asked(printed, session, tmp_path):
    asked = [Concept(PROMPT, word, draws=3) for word in ("star", "hatched")]
    groups = {"some": [sample.id for sample in session.index.samples[:4]]}
    answers = session.attribute(asked, group_by=groups)
    query = Image(PROMPT, draws=3)
    steps = session.attribute_steps(query)
    journey = journey_of(session, query, steps, 3)
    written = write_answers(session, answers, tmp_path / "out", top=3, journey=journey)
    text = (tmp_path / "out/report.html").read_text()
    assert text.count(">What the model aimed at") == 0 and text.count('alt="What the model') == 4
    assert "Step by step" in text and f'The making of <span dir="auto">“{PROMPT}”, seed 0' in text
    alone = write_journey(session, query, steps, tmp_path / "alone", 3)
    same = ("steps", "correlation", "overlap of top", "files", "prompt")
    assert {name: written["journey"][name] for name in same} == {n: alone[n] for n in same}
    pages = printed(text)
    assert sum(len(page.pictures) for page in pages) == text.count("<img")
    assert all(page.cut() == [] for page in pages) and {round(p.scale, 3) for p in pages} == {0.75}
    assert len(printed(text, alone=True)) == 1
    assert Path(tmp_path / "out/journey/journey.json").is_file()
