"""Contact sheets: what must be on them, where, and what must never be."""

import numpy as np
import pytest
from PIL import Image
from support.report import (
    AWKWARD,
    ParsedPage,
    answer,
    box,
    colour,
    embedded,
    entries,
    entry,
    report,
)

from headwater.data.images import PAPER, flatten, scale
from headwater.report.sheets.contact_sheet import (
    columns_sheet,
    contact_sheet,
    format_error,
    format_score,
)


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
    plain = contact_sheet([entry()], title="Title")
    left, top, *_ = box(plain, colour(0))
    sheet = contact_sheet([entry(image=None)], title="Title")
    tile = np.asarray(sheet)[top : top + 160, left : left + 160]
    values, counts = np.unique(tile.reshape(-1, 3), axis=0, return_counts=True)
    assert values[counts.argmax()].min() > 230 and counts.max() < tile.size // 3
    assert sheet.size == plain.size


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((64, 64), (128, 128)),
        ((16, 16), (160, 160)),
        ((10, 30), (50, 150)),
        ((100, 50), (160, 80)),
        ((2000, 500), (160, 40)),
        ((2000, 1), (160, 1)),
    ],
)
def test_pictures_keep_their_proportions_in_the_middle_of_the_tile(size, scaled):
    sheet = contact_sheet([entry(image=Image.new("RGB", size, colour(3)))], title="Title")
    tile_left, tile_top, *_ = box(contact_sheet([entry()], title="Title"), colour(0))
    left, top, *size = box(sheet, colour(3))
    assert tuple(size) == scaled
    assert (left - tile_left, top - tile_top) == ((160 - scaled[0]) // 2, (160 - scaled[1]) // 2)


def test_small_pictures_are_enlarged_without_new_colours():
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    enlarged = np.asarray(scale(Image.fromarray(noise), 160))
    np.testing.assert_array_equal(enlarged, noise.repeat(20, 0).repeat(20, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_mode_of_pictures_is_shown(mode):
    sheet = contact_sheet([entry(image=Image.new(mode, (70, 50)))], title="Title")
    assert sheet.mode == "RGB"
    page = ParsedPage(report(answer(top=[entry(image=Image.new(mode, (70, 50)))])))
    assert len(embedded(page)) == 2  # on the first page, and below


def test_flatten_puts_transparency_on_white_and_keeps_the_range_of_deep_greys():
    assert flatten(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(flatten(deep))[0, :, 0].tolist() == [0, 100, 255]


def test_sheets_refuse_what_cannot_be_laid_out():
    with pytest.raises(ValueError, match="columns=0"):
        contact_sheet([], title="Title", columns=0)
    with pytest.raises(ValueError, match="tile=20"):
        contact_sheet([], title="Title", tile=20)


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.031234, "+0.0312"),
        (-0.1, "-0.100"),
        (123.4, "+123"),
        (1234567, "+1230000"),
        (0.0, "+0.00"),
        (-0.0, "+0.00"),
        (-1.234e-5, "-1.23e-05"),
        (-1.234e-4, "-0.000123"),
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


@pytest.mark.parametrize("name", AWKWARD.values(), ids=AWKWARD)
def test_names_of_bands_stay_on_the_sheet(name):
    """A concept, which a band is called after, may hold anything: lines, controls, too much."""
    bands = [(name * 2, [[entry(0).image]])]
    sheet = columns_sheet(["step 9"], bands, title="A journey")
    plain = columns_sheet(["step 9"], [("plain", [[entry(0).image]])], title="A journey")
    assert sheet.size == plain.size and box(sheet, colour(0)) == box(plain, colour(0))
    assert (np.asarray(sheet.convert("L"))[:, -30:] == 255).all()
