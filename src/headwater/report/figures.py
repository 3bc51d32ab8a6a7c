"""The pictures that stand for a question; of a part, with a line around it."""

from __future__ import annotations

import PIL.Image
from PIL import ImageChops, ImageFilter

from headwater.attribution.resources import Resources
from headwater.data.images import flatten, scale
from headwater.methods.choice import method_named
from headwater.queries.feature import Feature
from headwater.queries.query import Question
from headwater.report.sheets.contact_sheet import ACCENT

# Pixels a side of a picture with an outline, and how much of what lies outside is taken away.
SIDE, FADED = 512, 0.7


def draw_figures(
    resources: Resources, query: Question, method: str, guidance: float = 5.0
) -> list[tuple[str, PIL.Image.Image]]:
    """Pictures with a caption each; a question without parts has one and no caption.

    Of a feature that is given, the one that lies beside its file, if one does.

    Args:
        method: its name; of a step, one that noises the finished picture shows that.
        guidance: of the picture that stands for a question without one.
    """
    if isinstance(query, Feature):
        beside = query.picture_beside()
        return [] if beside is None else [("", beside)]
    picture = resources.picture_of(query, guidance)
    assert picture is not None
    side = method_named(method).query
    return [
        (
            figure.caption,
            figure.image if figure.mask is None else outlined(figure.image, figure.mask),
        )
        for figure in query.figures(picture, lambda: resources.denoiser, side)
    ]


def outlined(image: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """The picture, enlarged, with what is black in the mask faded, and a line around the rest."""
    image = scale(flatten(image), SIDE)
    mask = scale(mask, SIDE).resize(image.size)
    pale = PIL.Image.blend(
        image.convert("L").convert("RGB"), PIL.Image.new("RGB", image.size, "white"), FADED
    )
    composed = PIL.Image.composite(image, pale, mask)
    inside = mask.point([255 * (level >= 128) for level in range(256)])
    line = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(7)), inside)
    composed.paste(PIL.Image.new("RGB", image.size, ACCENT), mask=line)
    return composed
