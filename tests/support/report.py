"""Made-up answers, their report, and what a browser would make of it."""

import base64
import io
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
from PIL import Image

from headwater.attribution.answer.bootstrap import Certainty
from headwater.attribution.answer.groups import Group
from headwater.queries.query import Name
from headwater.report.charts import spans
from headwater.report.html import Answer, Asked, Bar, html_report
from headwater.report.journeys.journey import Column, Journey
from headwater.report.page import Page
from headwater.report.sheets.contact_sheet import Entry

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


def report(*answers: Answer, prompt="a red star", pictures=(), file="", **changes) -> str:
    fields = {"method": "concept-trak", "provenance": {}, "asked": Asked(prompt, pictures, file)}
    return html_report(answers=answers or [answer()], **fields | changes)


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


def group(name: str, share: float) -> Group:
    return Group(name, 3, 7 * share, share, 0.2, 0.1, ())


def bar(name: str, share: float, images=()) -> Bar:
    return Bar(group(name, share), spans([7 * share], [0.2])[0], images)


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


def made_up_query() -> SimpleNamespace:
    """What a journey knows of its question."""
    return SimpleNamespace(prompt="a red star", seed=0, name=lambda: Name("the picture", False))


def made_up_journey(steps=(999, 1), depth=1, **changes) -> Journey:
    """Steps with `depth` images at either end of each."""
    low = [entry(depth + i) for i in range(depth)]
    aim = Image.new("RGB", (16, 16), colour(9))
    attribution = SimpleNamespace(method="journey-trak", provenance={"query": {"step": steps[0]}})
    matrix = [[1.0 if i == j else -0.5 for i in steps] for j in steps]
    names = ("correlation", "overlap of top", "overlap of bottom")
    fields = {
        "query": made_up_query(),
        "attributions": [attribution for _ in steps],
        "columns": [Column(step, aim, entries(depth), low, None) for step in steps],
        "remarks": [],
        "compared": dict.fromkeys(names, matrix),
        "results": [{} for _ in steps],
        "provenance": {},
    }
    return Journey(**fields | changes)
