"""The pictures that stand for a question."""

from PIL import Image

from headwater.report.figures import SIDE, outlined
from headwater.report.sheets.contact_sheet import ACCENT


def test_a_part_is_outlined_and_the_rest_faded():
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    picture = outlined(image, mask)
    assert picture.size == (SIDE, SIDE) == (512, 512)
    assert picture.getpixel((256, 256)) == (200, 30, 30)
    faded = picture.getpixel((20, 20))
    assert len(set(faded)) == 1 and faded[0] > 180
    accent = tuple(int(ACCENT[i : i + 2], 16) for i in (1, 3, 5))
    row = [picture.getpixel((x, 256)) == accent for x in range(512)]
    assert [x for x, line in enumerate(row) if line] == [125, 126, 127, 384, 385, 386]
