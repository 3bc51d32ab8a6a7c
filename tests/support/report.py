"""Made-up answers, their report, and what a browser would make of it."""

import base64
import io
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
from PIL import Image

from headwater.attribution.answer.bootstrap import Certainty
from headwater.report.html import Answer, html_report
from headwater.report.page import Page
from headwater.report.sheets.contact_sheet import Entry
from headwater.report.wording import WORDING

VOID = {"meta", "img", "br", "hr", "link", "input"}


AWKWARD = {
    "empty": "",
    "long": "a very long caption " * 15,
    "one word": "x" * 300,
    "accents": "café, naïve Ångström — déjà vu",
    "Japanese": "日本語のキャプション",
    "Arabic": "مرحبا بالعالم",
    "emoji": "👩‍👩‍👧 and 🎨",
    "control": "a\0b\u202ec\nd\te",
    "escape codes": "\x1b[31mred\x1b[0m \x9b2J bell\a \x7f",
    "direction": "\u202dover \u202eride \u2067isolate \u2066 no end",
    "lines": "one\r\ntwo\rthree\x85four\u2028five",
    "script": "</script></style><script>alert(1)</script>",
    "quotes": '\' onerror=alert(1) " x="`',
    "template 2": "{{ 7 * 7 }} {% raw %} {# gone #}",
    "surrogate": "file \udcff name",
    "markup": "<script>alert('1')</script> & \"quoted\" </figcaption>",
    "template": "$title ${answers} {concept} %s",
}


def colour(i: int) -> tuple[int, int, int]:
    """One that no other entry, and no other part of a sheet, has."""
    return 10 + 4 * i, 200 - 3 * i, 77


def entry(i: int = 0, **changes) -> Entry:
    image = Image.new("RGB", (200, 200), colour(i))
    fields = {"rank": i + 1, "id": f"row-{i}", "score": 0.5 - i / 50, "caption": f"picture {i}"}
    return Entry(**{**fields, "uri": f"folder/{i}.png", "image": image, **changes})


def entries(n: int) -> list[Entry]:
    return [entry(i) for i in range(n)]


def answer(**changes) -> Answer:
    scores = np.random.default_rng(0).normal(size=500).tolist()
    fields = {
        "concept": "star",
        "plus": "a star",
        "minus": "a shape",
        "context": "over 16 captions",
    }
    return Answer(**{**fields, "top": entries(3), "bottom": [], "scores": scores, **changes})


def report(*answers: Answer, **changes) -> str:
    fields = {"prompt": "a red star", "method": "concept-trak", "pictures": []}
    return html_report(answers=answers or [answer()], **{**fields, "provenance": {}, **changes})


def box(sheet: Image.Image, wanted: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of all pixels of a colour, which must fill that rectangle."""
    red, green, blue = np.moveaxis(np.asarray(sheet), -1, 0)
    rows, columns = np.nonzero((red == wanted[0]) & (green == wanted[1]) & (blue == wanted[2]))
    left, top = int(columns.min()), int(rows.min())
    width, height = int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1
    assert len(rows) == width * height
    return left, top, width, height


def sure(stability=0.93, halves=0.97) -> Certainty:
    return Certainty(32, 10, np.zeros(3), {}, stability, halves)


class ParsedPage(HTMLParser):
    """Elements with their attributes, the text outside of style, and whether all tags close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str, style: str | None = None) -> list[dict[str, str]]:
        every = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in every if style in (None, a.get("class"))]


def embedded(page: ParsedPage) -> list[Image.Image]:
    sources = [img["src"].removeprefix("data:image/png;base64,") for img in page.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


EMPTY_PAGE = Page(pictures=[], prompt="", reading=[], provenance={})


def made_up_journey(**changes) -> dict:
    """What journey.html takes: two steps with one image at either end of each."""
    image = Image.new("RGB", (16, 16), colour(9))
    step = SimpleNamespace(aim=image, top=[entry(0)], bottom=[entry(1)], certainty=None)
    columns = [SimpleNamespace(**{**vars(step), "step": t}) for t in (999, 1)]
    matrix = [[1.0, -0.5], [-0.5, 1.0]]
    names = ("correlation", "overlap of top", "overlap of bottom")
    journey = SimpleNamespace(
        method="journey-trak",
        steps=[999, 1],
        words=WORDING["influence"],
        columns=columns,
        compared=dict.fromkeys(names, matrix),
    )
    fields = {"journey": journey, "subject": "the picture", "images": 2, "remarks": []}
    return {**fields, "k": None, "likelihoods": None, **changes}
