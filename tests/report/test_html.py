"""Contact sheets and the HTML report: what must be on them, where, and what must never be."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support.brute_force import kernel_of, made

from headwater.attribution.bootstrap import Certainty
from headwater.attribution.scores import RULES
from headwater.data.images import PAPER, flatten, scale
from headwater.methods import METHODS, SQUARED, measure
from headwater.report.charts import BINS, CEILING, FLOOR, TOP
from headwater.report.contact_sheet import (
    ACCENT,
    Entry,
    _drawable,
    _fitting,
    _font,
    _shorten,
    _wrap,
    columns_sheet,
    contact_sheet,
    format_error,
    format_score,
)
from headwater.report.figures import SIDE, outlined
from headwater.report.html import Answer, html_report
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


class Page(HTMLParser):
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
        found = [attributes for name, attributes in self.elements if name == tag]
        return [a for a in found if style in (None, a.get("class"))]


def embedded(page: Page) -> list[Image.Image]:
    sources = [img["src"].removeprefix("data:image/png;base64,") for img in page.all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


# --- contact sheets ---


@pytest.mark.parametrize(("n", "columns", "rows"), [(0, 3, 1), (1, 3, 1), (10, 5, 2), (50, 5, 10)])
def test_a_sheet_is_as_large_as_its_rows_and_columns(n, columns, rows):
    sheet = contact_sheet(entries(n), title="Title", subtitle="Subtitle")
    # Margin 40 at both sides, tiles of 160, gaps of 20.
    assert sheet.width == 2 * 40 + columns * 160 + (columns - 1) * 20
    one_row = contact_sheet(entries(1), title="Title", subtitle="Subtitle").height
    two_rows = contact_sheet(entries(6), title="Title", subtitle="Subtitle").height
    assert sheet.height == one_row + (rows - 1) * (two_rows - one_row)


@pytest.mark.parametrize("n", [1, 10, 50])
def test_each_picture_fills_its_place_in_reading_order(n):
    sheet = contact_sheet(entries(n), title="Title")
    left, top, *_ = box(sheet, colour(0))
    pitch = box(contact_sheet(entries(6), title="Title"), colour(5))[1] - top
    for i in range(n):
        place = (left + (i % 5) * 180, top + (i // 5) * pitch, 160, 160)
        assert box(sheet, colour(i)) == place


@pytest.mark.parametrize("caption", AWKWARD.values(), ids=AWKWARD)
@pytest.mark.parametrize("tile", [112, 160, 300])
def test_no_text_leaves_its_column_or_the_sheet(caption, tile):
    middle = entry(1, caption=caption, id=caption * 3, rank=999_999, score=-1.234e-5)
    row = [entry(0, caption="", id=""), middle, entry(2, caption="", id="")]
    sheet = contact_sheet(row, title=caption or "t", subtitle=caption * 2, tile=tile)
    left, top, *_ = box(sheet, colour(1))
    pixels = np.asarray(sheet.convert("L"))[top + tile :]
    gap = max(12, tile // 8)
    assert (pixels[:, left + tile + 1 : left + tile + gap] == 255).all()
    assert (pixels[:, left - gap : left - 1] == 255).all()
    assert (pixels[-max(24, tile // 4) :] == 255).all()
    assert (pixels[:, left : left + tile] < 255).any()


def test_an_image_that_cannot_be_opened_gets_a_neutral_tile_with_words():
    there = contact_sheet([entry()], title="Title")
    left, top, *_ = box(there, colour(0))
    sheet = contact_sheet([entry(image=None)], title="Title")
    tile = np.asarray(sheet)[top : top + 160, left : left + 160]
    values, counts = np.unique(tile.reshape(-1, 3), axis=0, return_counts=True)
    assert values[counts.argmax()].min() > 230 and counts.max() < tile.size // 3
    assert sheet.size == there.size


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (128, 128)),
        ((16, 16), (160, 160)),
        ((10, 30), (50, 150)),
        ((100, 50), (160, 80)),
        ((2000, 500), (160, 40)),
        ((2000, 1), (160, 1)),
    ],
)
def test_pictures_keep_their_proportions_in_the_middle_of_the_tile(size, shown):
    sheet = contact_sheet([entry(image=Image.new("RGB", size, colour(3)))], title="Title")
    tile_left, tile_top, *_ = box(contact_sheet([entry()], title="Title"), colour(0))
    left, top, *found = box(sheet, colour(3))
    assert tuple(found) == shown
    assert (left - tile_left, top - tile_top) == ((160 - shown[0]) // 2, (160 - shown[1]) // 2)


def test_small_pictures_are_enlarged_without_new_colours():
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    enlarged = np.asarray(scale(Image.fromarray(noise), 160))
    np.testing.assert_array_equal(enlarged, noise.repeat(20, 0).repeat(20, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_mode_of_pictures_is_shown(mode):
    sheet = contact_sheet([entry(image=Image.new(mode, (70, 50)))], title="Title")
    assert sheet.mode == "RGB"
    assert len(embedded(Page(report(answer(top=[entry(image=Image.new(mode, (70, 50)))]))))) == 1


def test_flatten_puts_transparency_on_white_and_keeps_the_range_of_deep_greys():
    assert flatten(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(flatten(deep))[0, :, 0].tolist() == [0, 100, 255]


def test_sheets_refuse_what_cannot_be_laid_out():
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet([], title="Title", columns=0)
    with pytest.raises(ValueError, match="tile=20"):
        contact_sheet([], title="Title", tile=20)


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_wrapped_lines_fit_and_keep_every_word_or_end_in_an_ellipsis(text):
    lines = _wrap(text, 13, 160, 2)
    assert len(lines) <= 2
    assert all(_font(13).getlength(line) <= 160 for line in lines)
    if lines and lines[-1].endswith("…"):
        assert _font(13).getlength(_drawable(text)) > 160
    else:
        assert "".join(lines).replace(" ", "") == _drawable(text).replace(" ", "")


def test_text_is_cut_between_words_where_that_costs_little():
    assert _wrap("a star in dotted style", 13, 90, 1) == ["a star in…"]
    assert _shorten("x" * 99, 13, 90) == "x" * _fitting("x" * 99, 13, 90 - 9) + "…"


def test_letters_that_the_font_lacks_come_close():
    assert (
        _drawable("  café\n—\tÅngström \N{MINUS SIGN} \u202e½")
        == "cafe - Angstrom - 1\N{FRACTION SLASH}2"
    )


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.031234, "+0.0312"),
        (-0.1, "-0.100"),
        (123.4, "+123"),
        (1234567, "+1230000"),
        (0.0, "+0.00"),
        (-0.0, "+0.00"),
        (-1.234e-5, "-0.0000123"),
        (9.999e-5, "+0.000100"),
        (1.5e-9, "+1.50e-09"),
        (-2e8, "-2.00e+08"),
    ],
)
def test_scores_have_a_sign_and_three_significant_digits(score, text):
    assert format_score(float(score)) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.00213, "0.0021"), (1.66, "1.7"), (-0.0, "0.0"), (123.4, "120"), (2e-9, "2.0e-09")],
)
def test_errors_have_two_significant_digits_and_no_sign(error, text):
    assert format_error(error) == text


def test_near_copies_stand_beside_an_id_that_gives_way():
    plain = contact_sheet([entry(id="folder/" * 9)], title="Title")
    sheet = contact_sheet([entry(id="folder/" * 9, copies=["a", "b"])], title="Title")
    assert sheet.size == plain.size
    changed = np.argwhere((np.asarray(sheet) != np.asarray(plain)).any(-1))
    left, top, *_ = box(sheet, colour(0))
    assert changed[:, 0].min() > top + 160 and changed[:, 1].min() >= left
    assert changed[:, 1].max() < left + 160
    # The words are drawn in the accent colour, right-aligned under the picture.
    below = np.asarray(sheet)[top + 180 :].astype(int)
    words = np.argwhere(below[..., 2] - below[..., 0] > 40)
    assert len(words) > 10 and words[:, 1].min() > left + 60 and words[:, 1].max() >= left + 150


def test_columns_of_a_sheet_hold_their_pictures_in_their_bands():
    def picture(i):
        return Image.new("RGB", (200, 200), colour(i))

    bands = [
        ("Aimed at", [[picture(0)], [picture(1)]]),
        ("Proponents", [[picture(2), picture(3)], [picture(4)]]),
        ("Opponents", [[None], [picture(5)]]),
    ]
    sheet = columns_sheet(["step 9", "step 1"], bands, title="A journey")
    places = [box(sheet, colour(i)) for i in range(6)]
    assert {place[2:] for place in places} == {(128, 128)}
    left, right = places[0][0], places[1][0]
    assert right >= left + 128 and [place[0] for place in places[2:]] == [left, left, right, right]
    tops = [place[1] for place in places]
    assert tops[0] == tops[1] and tops[2] == tops[4] and tops[3] >= tops[2] + 128
    assert tops[2] > tops[0] + 128 and tops[5] > tops[3] + 128
    # Each head stands over its column, and nothing leaves the sheet.
    pixels = np.asarray(sheet.convert("L"))
    for x in (left, right):
        assert (pixels[tops[0] - 60 : tops[0], x : x + 60] < 200).any()
    assert sheet.getpixel((sheet.width - 1, 0)) == sheet.getpixel((0, sheet.height - 1))
    assert PAPER == "#ffffff" and (pixels[:, -30:] == 255).all() and (pixels[-20:] == 255).all()


def test_a_part_is_outlined_and_the_rest_faded():
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    shown = outlined(image, mask)
    assert shown.size == (SIDE, SIDE) == (512, 512)
    assert shown.getpixel((256, 256)) == (200, 30, 30)
    faded = shown.getpixel((20, 20))
    assert len(set(faded)) == 1 and faded[0] > 180
    accent = tuple(int(ACCENT[i : i + 2], 16) for i in (1, 3, 5))
    row = [shown.getpixel((x, 256)) == accent for x in range(512)]
    assert [x for x, line in enumerate(row) if line] == [125, 126, 127, 384, 385, 386]


# --- the report ---


@pytest.mark.parametrize("top", [0, 1, 50])
@pytest.mark.parametrize("bottom", [0, 10])
def test_the_report_parses_and_shows_every_entry(top, bottom):
    low = [entry(i, id=f"low-{i}", score=-1.0 - i) for i in range(bottom)]
    page = Page(report(answer(top=entries(top), bottom=low)))
    assert len(page.all("img")) == top + bottom
    assert page.all("html") == [{"lang": "en"}]
    assert ("Opponents (10)" in page.text) == bool(bottom)
    for shown in [*entries(top), *low]:
        assert (
            f"{shown.rank} {format_score(shown.score)}".replace("-", "\N{MINUS SIGN}") in page.text
        )
        assert shown.id in page.text and shown.uri in page.text
        assert f"Training image {shown.id}: {shown.caption}" in {i["alt"] for i in page.all("img")}


def test_the_question_the_prompt_and_the_comparison_are_in_words():
    both = [answer(), answer(concept="Van Gogh", plus="", minus="", context="no words compared")]
    text = report(*both, prompt="a red Star by van gogh, starlit")
    page = Page(text)
    assert "Which training images taught the model “ star ” and “ Van Gogh ”?" in page.text
    assert re.findall("<mark>(.*?)</mark>", text) == ["Star", "van gogh"]
    assert "makes of “a star” was compared with what it makes of “a shape”, over 16" in page.text
    assert "no words compared" in page.text
    assert "Training images 500" in page.text


def sure(stability=0.93, halves=0.97) -> Certainty:
    return Certainty(32, 10, np.zeros(3), {}, stability, halves)


@pytest.mark.parametrize(
    ("stability", "meaning"),
    [
        (0.93, "would show nearly the same 10"),
        (0.75, "would show most of these 10 again"),
        (0.3, "take these 10 as examples of many"),
    ],
)
def test_a_sentence_says_how_firm_the_answer_is(stability, meaning):
    text = Page(report(answer(certainty=sure(stability, -0.25)))).text
    assert "put with 32 random draws" in text and f"stays there {stability:.0%} of" in text
    assert "rank correlation of \N{MINUS SIGN}0.25" in text and meaning in text
    assert "random draws. When" not in Page(report(answer())).text


def test_every_entry_has_its_error_its_stability_and_its_near_copies():
    first = entry(0, error=0.0213, stays=0.931, k=7, copies=["twin <1>", "twin 2"])
    text = Page(page := report(answer(top=[first, entry(1)], certainty=sure()))).text
    assert "+0.500 ± 0.021" in text and text.count("±") == 3  # grid, list, how to read
    assert text.count("stays in the top 7 in 93% of resamples") == 1
    assert text.count("+2 near-copies") == 2 and "+2 near-copies : " not in text
    assert "+2 near-copies: twin <1>, twin 2" in text and "<1>" not in page


def test_pictures_are_called_pictures():
    image = Image.new("RGB", (16, 16), colour(1))
    shown = answer(concept="the picture", plus="", minus="", context="Asked.", quoted=False)
    page = Page(report(shown, prompt="", file="a <photo>.png", pictures=[("", image)]))
    assert "taught the model this picture ? File" in page.text
    assert "File a <photo>.png Method" in page.text and "Prompt" not in page.text
    assert "pushes the model towards the picture." in page.text and "“" not in page.text
    assert page.all("img")[0]["alt"] == "The picture that was asked about"


def test_several_pictures_have_captions():
    images = [Image.new("RGB", (16, 16), colour(i)) for i in (1, 2)]
    pictures = list(zip(("Aimed at", "Finished"), images, strict=True))
    page = Page(report(pictures=pictures))
    assert "Aimed at Finished" in page.text
    assert [img["alt"] for img in page.all("img")[:2]] == [
        "Aimed at. Prompt: a red star",
        "Finished. Prompt: a red star",
    ]


@pytest.mark.parametrize("measure", WORDING)
def test_what_is_no_influence_is_not_called_so(measure):
    page = Page(report(answer(measure=measure, bottom=[entry(7, score=0.1)]))).text
    assert ("pushes the model towards “star”" in page) == (measure == "influence")
    assert ("no image is an opponent" in page) == (measure == "influence")
    assert ("most similar to “star”" in page) == (measure == "similarity")
    assert ("random numbers" in page) == (measure == "chance")
    assert ("is a square" in page) == (measure == "strength")
    assert ("marks a proponent" in page) == (measure == "influence")
    assert bool(re.search("Proponents|Opponents", page)) == (measure == "influence")


def test_which_rules_square_their_scores():
    """A rule whose scores are never negative, whatever the query, has none to call opponents."""
    phi, psi, errors = made(60, 20)
    kernel = kernel_of(phi, 0.1, errors)
    squares = {name for name, rule in RULES.items() if (rule(kernel, psi).answer() >= 0).all()}
    assert squares == set(SQUARED)
    for name, method in METHODS.items():
        assert (measure(name) == "strength") == (method.rule in SQUARED)


def test_a_negative_score_at_the_top_is_no_proponent():
    """Of few candidates the best may be an opponent."""
    page = Page(report(answer(top=[entry(0), entry(1, score=-0.1)]))).text
    assert "Training on those of these images with a positive score pushes" in page
    assert "Training on these images pushes" not in page


def test_the_histogram_is_of_those_that_competed():
    scores = [0.1 * i for i in range(40)]
    shown = answer(scores=scores, competing=range(5, 35), remarks=["Only <30> competed."])
    page = Page(report(shown)).text
    assert "Top 10: from +2.50" in page and "10 highest of 30" in page
    assert "Scores of all candidates" in page and "Training images 40" in page
    assert "Only <30> competed." in page


@pytest.mark.parametrize("text", AWKWARD.values(), ids=AWKWARD)
def test_no_text_from_outside_becomes_markup(text):
    plain = Page(report(pictures=[("", Image.new("L", (16, 16)))], provenance={"a": {"b": "c"}}))
    shown = entry(caption=text, id=text, uri=text)
    fields = {"concept": text, "plus": text, "minus": text, "context": text}
    page = report(
        answer(**fields, top=[shown, entry(1), entry(2)]),
        prompt=text,
        method=text,
        pictures=[("", Image.new("L", (16, 16)))],
        provenance={text: {text: text}},
    )
    tags = [tag for tag, _ in Page(page).elements if tag not in ("mark", "code")]
    assert tags == [tag for tag, _ in plain.elements if tag not in ("mark", "code")]
    assert "<script" not in page
    page.encode("utf-8")


def test_nothing_is_loaded_from_elsewhere():
    page = report(
        answer(bottom=[entry(4, score=-1.0, image=None)]),
        pictures=[("", Image.new("RGB", (300, 200)))],
    )
    assert not re.search(r"https?:|//[a-z]|@import|url\(|xmlns", page)
    for tag, attributes in Page(page).elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        assert not {"srcset", "action", "data", "poster", "xlink:href"} & set(attributes)
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert attributes.get("href", "#").startswith("#")
    policy = {"http-equiv": "Content-Security-Policy"}.items()
    (content,) = [m["content"] for m in Page(page).all("meta") if policy <= m.items()]
    assert content.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("size", "query", "grid", "pixels"),
    [
        ((16, 16), (16, 16), (16, 16), True),
        ((128, 100), (128, 100), (128, 100), True),
        ((129, 100), (129, 100), (129, 100), False),
        ((2000, 1000), (512, 256), (384, 192), False),
        ((1, 2000), (1, 512), (1, 384), False),
    ],
)
def test_pictures_are_embedded_small_and_enlarged_by_their_kind(size, query, grid, pixels):
    image = Image.new("RGB", size, colour(5))
    page = Page(report(answer(top=[entry(image=image)]), pictures=[("", image)]))
    assert [picture.size for picture in embedded(page)] == [query, grid]
    assert {picture.getpixel((0, 0)) for picture in embedded(page)} == {colour(5)}
    assert [img.get("class") for img in page.all("img")] == ["pixels" if pixels else None] * 2


def test_embedded_small_pictures_are_exact():
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    page = Page(report(answer(top=[entry(image=Image.fromarray(noise))])))
    np.testing.assert_array_equal(np.asarray(embedded(page)[0]), noise)


def test_a_missing_image_is_named_and_not_embedded():
    page = Page(report(answer(top=[entry(image=None, id="gone", caption="")])))
    assert page.all("img") == [] and "image not found" in page.text
    assert [d["aria-label"] for d in page.all("div", "picture")] == ["Training image gone"]


def test_opponents_are_called_so_only_where_a_score_is_negative():
    assert "no image is an opponent" in report(answer(bottom=[entry(score=0.1)]))
    assert "no image is an opponent" not in report(answer(bottom=[entry(score=-0.1)]))


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e7])
@pytest.mark.parametrize("n", [2, 30, 2_000])
def test_histogram_bars_have_the_logarithm_of_the_counts(n, scale):
    scores = (np.random.default_rng(n).laplace(size=n) * scale).tolist()
    page = Page(report(answer(scores=scores)))
    counts, edges = np.histogram(scores, BINS)
    bars = page.all("rect", "bar")
    height = np.array([float(bar["height"]) for bar in bars])
    # log(2 count) is a fixed share of the height: half an image is the foot of the axis.
    share = (FLOOR - CEILING) / np.log(2.5 * counts.max())
    np.testing.assert_allclose(np.exp(height / share) / 2, counts[counts > 0], rtol=1e-3)
    assert all(abs(float(bar["y"]) + float(bar["height"]) - FLOOR) < 0.02 for bar in bars)
    # The bars stand at their bins: the middle of a bar is that of its bin, on one straight line.
    middle = [float(bar["x"]) + float(bar["width"]) / 2 for bar in bars]
    bins = ((edges[1:] + edges[:-1]) / 2)[counts > 0]
    np.testing.assert_allclose(middle, 64 + 536 * (bins - edges[0]) / np.ptp(edges), atol=0.02)


def test_the_histogram_marks_the_tenth_highest_score():
    scores = [i / 100 for i in range(101)]
    page = Page(report(answer(scores=scores)))
    (line,) = page.all("path", "threshold")
    x = float(re.match(r"M([\d.]+) ", line["d"]).group(1))
    assert (x - 64) / 536 == pytest.approx(0.91, abs=1e-3)
    assert "Top 10: from +0.910" in page.text and "10 highest of 101" in page.text
    assert page.all("path", "band") and not Page(report(answer(scores=scores[:TOP]))).all(
        "path", "band"
    )


@pytest.mark.parametrize(
    "scores",
    [[0.0], [0.3] * 20, [1e-12, 1.0000001e-12], [0.1, 0.1 + 1e-17, 0.1 + 2e-17], [-5e9, 7.0]],
)
def test_histograms_of_odd_scores_stand_inside_their_frame(scores):
    page = Page(report(answer(scores=scores)))
    labels = [float(text["x"]) for text in page.all("text", "tick")]
    bars = page.all("rect", "bar")
    assert bars and 3 <= len(labels) <= 20 and max(labels) <= 600
    assert all(64 <= float(bar["x"]) and float(bar["y"]) >= CEILING for bar in bars)


def test_no_scores_no_histogram():
    assert Page(report(answer(scores=[]))).all("svg") == []


@pytest.mark.parametrize(
    ("scores", "names"),
    [
        ([-0.05, 0.058], "-0.04 -0.02 0 +0.02 +0.04"),
        ([-3.0, 2.0], "-3 -2 -1 0 +1 +2"),
        ([0.0, 3e-6], "0 +5e-07 +1e-06 +1.5e-06 +2e-06 +2.5e-06 +3e-06"),
        ([-2e8, 2e8], "-2e+08 -1e+08 0 +1e+08 +2e+08"),
    ],
)
def test_the_score_axis_has_round_numbers(scores, names):
    text = Page(report(answer(scores=scores))).text
    assert f" {names} ".replace("-", "\N{MINUS SIGN}") in text


def test_provenance_is_flat_and_complete():
    sha = "0123456789abcdef" * 4
    provenance = {
        "model": {"name": "tiny", "fingerprint": f"sha256:{sha}"},
        "recipe": {"steps": [1, 2, 3], "projection": {"seed": 0}},
        "shards": [{"rows": 10}, {"rows": 20}],
        "nothing": None,
    }
    text = report(provenance=provenance)
    rows = re.findall(r'<th scope="row"><code>(.*?)</code></th><td>(.*?)</td>', text)
    assert dict(rows) == {
        "model.name": "tiny",
        "model.fingerprint": f"<code>sha256:{sha}</code>",
        "recipe.steps": "1, 2, 3",
        "recipe.projection.seed": "0",
        "shards.0.rows": "10",
        "shards.1.rows": "20",
        "nothing": "—",
    }
