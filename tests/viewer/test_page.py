"""The page itself, in a browser without a window; skipped where there is no Chromium."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import PIL.Image
import pytest

from headwater import Concept, write_answers
from headwater.viewer.gallery import write_gallery

PROMPT = "a red star on a plain background"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SOON = 60_000  # milliseconds until a test gives up; nothing depends on how long it takes
FEW = 4  # draws of most answers here
ASKED = f"prompt={PROMPT.replace(' ', '+')}"
OF_STAR = f"/?{ASKED}&concepts=star&draws={FEW}"  # a link

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: make browser-test"),
]


def _opened(folders: list[Path], *options: str) -> tuple[subprocess.Popen, str]:
    """A page on indexes, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "headwater", "view", *map(str, folders), "--port", str(port)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, as under nohup
    server = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    assert server.stderr is not None
    for line in server.stderr:
        if address := re.search(r"http://\S+", line):
            return server, address[0]
    raise AssertionError("the page did not open")


@pytest.fixture(scope="module")
def address(folders) -> Iterator[str]:
    server, address = _opened([folders[name] for name in ("all", "fewer", "journeys")])
    yield address
    server.terminate()
    server.communicate()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Visitor:
    """A person at the page: what they see, and whom their browser talks to."""

    def __init__(self, browser, address: str, link: str = "", **options) -> None:
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(SOON)
        self.strangers: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(address + link)
        self.prompt = self.page.get_by_label("Prompt", exact=True)
        self.prompt.wait_for()
        self.page.locator(".hw-status", has_text="Ready").wait_for(state="detached")

    def _asked(self, request) -> None:
        if not re.match(r"(http://127\.0\.0\.1[:/]|data:|blob:)", request.url):
            self.strangers.append(request.url)

    def sees(self, text: str | re.Pattern[str]) -> None:
        """Waits for a line on what is going on."""
        self.page.locator(".hw-status", has_text=text).wait_for()

    def asks(self, *words: str, prompt: str = PROMPT, draws: int = FEW) -> None:
        self.prompt.fill(prompt)
        for word in words:
            self.page.get_by_label(word, exact=True).check()
        self.page.wait_for_function(
            """lines => {
              const text = document.querySelector('#against textarea').value;
              return text != '' && text.split('\\n').length == lines;
            }""",
            arg=len(words),
        )
        self.page.locator("#ask").click()
        self.sees(f"{draws} draws,")

    def opens(self, tab: str) -> None:
        shown = self.page.get_by_role("tab", name=tab, exact=True)
        if not shown.is_visible():  # on a narrow page
            self.page.get_by_label("More tabs").last.click()
            shown = self.page.get_by_role("button", name=tab, exact=True)
        shown.click()

    def presses(self, button: str) -> None:
        self.page.get_by_role("button", name=button).click()

    def chooses(self, control: str, option: str) -> None:
        """From a list that opens under the control."""
        self.page.get_by_label(control, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    @property
    def answer(self) -> str:
        return self.page.locator("#answers").inner_text()


@pytest.fixture
def visit(browser, address):
    visitors = []

    def visit(link: str = f"/?draws={FEW}", **options) -> Visitor:
        visitors.append(Visitor(browser, address, link, **options))
        return visitors[-1]

    yield visit
    for visitor in visitors:
        assert not visitor.strangers and not visitor.errors
        visitor.page.context.close()


# --- asking and looking -------------------------------------------------------------------------


def test_words_are_clicked_and_answered(visit):
    person = visit()
    person.asks("star", "red")
    headings = person.page.locator("#answers h2").all_inner_texts()
    assert headings == ["“red”", "“star”"] or headings == ["“star”", "“red”"]
    assert "a red on a plain background" in person.page.locator("#against textarea").input_value()
    person.page.locator(".hw-pictures img").nth(2).wait_for()
    assert "concepts=star" in person.page.url and person.page.url.count("concepts=") == 2
    person.presses("More draws")
    person.sees(f"{2 * FEW} draws")


def test_pictures_are_of_what_was_asked_last(visit):
    """Asked again while the pictures of the first question are drawn."""
    person = visit()
    person.asks("star")
    person.page.locator(".hw-pictures li").first.wait_for()
    person.page.get_by_label("star", exact=True).uncheck()
    person.asks("red")
    drawn = person.page.locator(".hw-pictures li", has=person.page.locator("img"))
    drawn.filter(has_text="without “red”").wait_for()
    person.page.wait_for_timeout(2_000)  # nothing of the first comes after it
    assert "not drawn yet" not in person.page.locator(".hw-pictures").inner_text()
    assert drawn.filter(has_text="without “red”").count() == 1


def test_a_link_of_what_there_is_not_breaks_nothing(visit):
    person = visit(f"/?{ASKED}&ask=os.remove&damping=0.5&method=none&draws={FEW}")
    person.asks("star")


def test_a_link_brings_a_question_back(visit):
    person = visit(OF_STAR)
    person.sees(f"{FEW} draws,")
    assert person.page.get_by_label("star", exact=True).is_checked()
    assert person.prompt.input_value() == PROMPT


def test_an_image_is_clicked_left_out_and_put_back(visit):
    person = visit(OF_STAR)
    person.sees(f"{FEW} draws,")
    card = person.page.locator("#answers .hw-card").last  # far below what is shown of it
    row = card.get_attribute("data-row")
    card.click()
    person.page.locator(".hw-detail table").wait_for()
    # what stands above may grow or shrink by a line meanwhile
    person.page.wait_for_function(
        "() => { const seen = document.querySelector('.hw-detail').getBoundingClientRect();"
        " return seen.top > -100 && seen.bottom > 100 && seen.top < innerHeight; }"
    )
    person.page.get_by_text("Nearest neighbours").wait_for()
    person.presses("Leave the chosen image out")
    person.page.locator(".left-out").wait_for()
    assert person.page.locator(f"#answers [data-row='{row}']").count() == 0


def test_damping_is_switched_and_groups_are_shown(visit):
    person = visit(OF_STAR)
    person.sees(f"{FEW} draws,")
    before = person.answer
    person.presses("Choices")
    person.chooses("Damping", "3")
    person.page.wait_for_function(
        "before => document.querySelector('#answers').innerText != before", arg=before
    )
    person.page.wait_for_url(re.compile("damping=3"))
    person.chooses("Group by", "folder")
    person.opens("Distribution")
    person.page.locator("#distribution table.groups svg rect").nth(1).wait_for()
    assert person.page.locator("#distribution .histogram svg .mark").count() > 0


def test_a_picture_is_dropped_and_painted(visit, tmp_path):
    PIL.Image.new("RGB", (128, 96), "#cc3344").save(tmp_path / "given.png")
    person = visit()
    person.presses("Choices")
    person.chooses("Index", "journeys")
    person.chooses("Method", "trak")
    person.opens("A picture")
    person.page.locator("#painted canvas").first.wait_for()
    person.page.wait_for_function("document.querySelector('#painted canvas').width > 0")
    person.page.locator("#painted input[type=file]").set_input_files(tmp_path / "given.png")
    person.page.locator("#painted").get_by_label("Brush", exact=True).click()
    box = person.page.locator("#painted canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    person.page.mouse.move(x, y)
    person.page.mouse.down()
    person.page.mouse.move(x + 30, y + 10, steps=5)
    person.page.mouse.up()
    person.page.get_by_label("What it is a picture of").fill("a red star")
    person.presses("Ask about this picture")
    person.sees(f"{FEW} draws,")
    assert "The outlined part of the picture" in person.answer


def test_a_journey_is_walked_along_its_slider(visit):
    person = visit()
    person.chooses("Index", "journeys")
    person.prompt.fill(PROMPT)
    person.opens("Journey")
    person.presses("Follow the picture's making")
    person.sees("2 steps, from noise")
    slider = person.page.get_by_role("slider", name="range slider for Step")
    slider.focus()
    person.page.keyboard.press("ArrowRight")
    person.page.get_by_role("heading", name="Step 2 of 2").wait_for()


def test_two_indexes_are_compared(visit):
    person = visit(OF_STAR)
    person.sees(f"{FEW} draws,")
    person.opens("Compare")
    person.chooses("The other index", "fewer")
    person.presses("Ask the other the same")
    person.sees("all beside fewer")
    person.page.get_by_role("heading", name="fewer").wait_for()


def test_the_report_is_downloaded(visit, tmp_path):
    person = visit(OF_STAR)
    person.sees(f"{FEW} draws,")
    person.opens("Keep")
    person.presses("Write the report and all scores")
    person.sees("prints to paper")
    with person.page.expect_download() as download:
        person.page.locator("#files a[download='report.html']").first.click()
    download.value.save_as(tmp_path / "report.html")
    assert "Which training images taught the model" in (tmp_path / "report.html").read_text()


def test_an_error_is_a_sentence(visit):
    person = visit()
    person.page.locator("#ask").click()
    person.sees("nothing is asked yet: write a prompt and choose words of it")
    assert person.page.locator(".hw-error[role=alert]").count() == 1
    # what goes on is told by a place that stays, whatever comes and goes in it
    assert person.page.locator("[role=status] .hw-status").count() == 1


def test_what_takes_long_is_cancelled(visit):
    person = visit(f"/?{ASKED}&concepts=star&draws=256&seed=77")
    person.sees(re.compile("Asking the model|more are being made"))
    person.presses("Cancel")
    person.sees("Cancelled")
    visit().asks("star")


def test_two_people_get_their_own_answers(visit):
    one, other = visit(), visit()
    for person, word in ((one, "star"), (other, "red")):
        person.prompt.fill(PROMPT)
        person.page.get_by_label(word, exact=True).check()
    for person in (one, other):
        person.page.locator("#ask").click()
    for person, word in ((one, "star"), (other, "red")):
        person.sees(f"{FEW} draws,")
        assert person.page.locator("#answers h2").all_inner_texts() == [f"“{word}”"]


# --- for everybody ------------------------------------------------------------------------------


def test_the_keyboard_is_enough(visit):
    person = visit()
    person.prompt.focus()
    person.page.keyboard.type(PROMPT)
    chip = person.page.get_by_label("star", exact=True)
    chip.wait_for()
    for _ in range(20):
        person.page.keyboard.press("Tab")
        if chip.evaluate("each => each === document.activeElement"):
            break
    person.page.keyboard.press("Space")
    for _ in range(20):
        person.page.keyboard.press("Tab")
        if person.page.evaluate("document.activeElement.closest('#ask') !== null"):
            break
    person.page.keyboard.press("Enter")
    person.sees(f"{FEW} draws,")
    card = person.page.locator("#answers .hw-card").first
    card.focus()
    person.page.keyboard.press("Enter")
    person.page.locator(".hw-detail").wait_for()


def serious(page) -> list[tuple[str, list[str]]]:
    """What an audit of accessibility finds that keeps somebody out, and where."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (each["id"], [node["html"][:120] for node in each["nodes"]])
        for each in Axe().run(page).response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_is_for_everybody(visit, scheme):
    """On a desk's screen, with all that can be open."""
    person = visit(f"/?{ASKED}&index=journeys&draws={FEW}", color_scheme=scheme)
    person.presses("Choices")
    person.opens("Journey")
    person.presses("Follow the picture's making")
    person.sees("2 steps, from noise")
    assert not serious(person.page), "Journey, Choices"
    person.opens("A picture")
    person.page.locator("#painted canvas").first.wait_for()
    assert not serious(person.page), "A picture"
    person.opens("A training image")
    person.page.get_by_label("Find by words of its caption").fill("star")
    person.presses("Find")
    person.page.locator(".hw-small .hw-card").first.wait_for()
    assert not serious(person.page), "A training image"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_indexes_are_compared_by_everybody(visit, scheme):
    person = visit(OF_STAR, color_scheme=scheme)
    person.sees(f"{FEW} draws,")
    person.opens("Compare")
    person.chooses("The other index", "fewer")
    person.presses("Ask the other the same")
    person.sees("all beside fewer")
    assert not serious(person.page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_and_galleries_are_for_everybody(browser, sessions, tmp_path, scheme):
    session = sessions["all"]
    answers = session.attribute(
        [Concept(PROMPT, word, draws=FEW) for word in ("star", "red")], group_by="folder",
        left_out=[session.index.samples[0].id],
    )  # fmt: skip
    write_answers(session, answers, tmp_path / "answer", top=5)
    gallery = write_gallery(tmp_path / "gallery", [tmp_path / "answer"], "Our model")
    page = browser.new_context(color_scheme=scheme).new_page()
    page.goto((tmp_path / "answer/report.html").as_uri())
    for closed in page.locator("summary").all():
        closed.click()
    assert not serious(page), "report"
    page.goto(gallery.as_uri())
    assert not serious(page), "gallery"
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_read_on_a_telephone_and_by_everybody(visit, scheme):
    """Nothing is wider than 375 pixels, and an audit of accessibility finds nothing serious."""
    size = {"width": 375, "height": 800}
    link = f"{OF_STAR}&group_by=folder"
    person = visit(link, viewport=size, color_scheme=scheme)
    person.sees(f"{FEW} draws,")
    person.page.locator("#answers .hw-card").first.click()
    person.page.locator(".hw-detail").wait_for()
    for tab in ("Answer", "Distribution", "Keep"):
        person.opens(tab)
        width = person.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 375, tab
        assert not serious(person.page), tab
    background = person.page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = int(re.findall(r"\d+", background)[0])
    assert shade < 60 if scheme == "dark" else shade > 200


# --- safety -------------------------------------------------------------------------------------


def test_no_caption_is_a_script(visit):
    person = visit(f"/?prompt=a+star&concepts=star&draws={FEW}&shown=12&group_by=id")
    person.sees(f"{FEW} draws,")
    assert "onerror" in person.answer
    person.page.locator("#answers .hw-card", has_text="onerror").first.click()
    person.page.locator(".hw-detail").wait_for()
    person.opens("Distribution")
    person.page.wait_for_timeout(300)
    assert person.page.evaluate("window.hit === undefined")


def _status(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "pyproject.toml",
        "{index}/index.json",
        "{index}/../images/metadata.jsonl",
    ],
)
def test_no_other_file_is_served(address, folders, path):
    path = path.format(index=folders["all"])
    assert _status(f"{address}/gradio_api/file={path}") in (403, 404)


def _multipart(content: bytes) -> tuple[bytes, dict[str, str]]:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def test_an_upload_that_is_too_large_is_refused(address):
    small, headers = _multipart(b"x" * 1000)
    assert _status(f"{address}/gradio_api/upload", small, **headers) == 200
    large, headers = _multipart(b"x" * 20_000_001)
    assert _status(f"{address}/gradio_api/upload", large, **headers) == 413


def test_without_the_password_nothing_is_shown_and_nothing_is_left(
    folders, browser, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server, address = _opened([folders["all"]], "--auth", "me:secret")
    try:
        assert _status(f"{address}/config") == 401
        assert _status(f"{address}/gradio_api/upload", *[_multipart(b"x")[0]]) == 401
        page = browser.new_context().new_page()
        page.goto(address)
        page.get_by_label("username").fill("me")
        page.get_by_label("password").fill("secret")
        page.get_by_role("button", name="Login").click()
        page.get_by_label("Prompt", exact=True).wait_for(timeout=SOON)
        page.context.close()
        assert list(tmp_path.glob("headwater-view-*"))
    finally:
        server.send_signal(2)
        _, said = server.communicate(timeout=60)
    assert not list(tmp_path.glob("headwater-view-*"))
    assert "Traceback" not in said
    start = time.monotonic()
    while time.monotonic() - start < 30:
        try:
            urllib.request.urlopen(address, timeout=5)
        except urllib.error.URLError:
            break
    else:
        pytest.fail("the page is still there")
