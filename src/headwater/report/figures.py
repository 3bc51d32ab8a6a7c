"""The pictures that stand for a question, and what the question is called in a sentence."""

from __future__ import annotations

import PIL.Image
from PIL import ImageChops, ImageFilter

from headwater.data.images import flatten, on_black, read_image, scale
from headwater.methods import Method
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture, seeded_noise
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.query import Question
from headwater.report.contact_sheet import ACCENT

# Pixels a side of a picture with an outline, and how much of what lies outside is taken away.
SIDE, FADED = 512, 0.7


def name(query: Question) -> tuple[str, bool]:
    """What was asked for, and whether it is words to be quoted: ("the picture", False)."""
    if query.kind == "local":
        return query.title, False
    if query.kind == "preference":
        return f"the {query.title}", False
    if isinstance(query, Concept) and query.swap:
        return f"the lack of “{query.concept}”", False
    if not isinstance(query, Image):
        return query.title, True
    what = "the picture" if query.mask is None else "the outlined part of the picture"
    return (what if query.step is None else f"{what} at step {query.step}"), False


def figures(
    query: Question, picture: Picture, denoiser: Denoiser, method: Method | None = None
) -> list[tuple[str, PIL.Image.Image]]:
    """Pictures with a caption each; a question without parts has one and no caption.

    Of a step it is what the model aimed at there, but of a method that noises the finished picture
    that, as noisy as there.
    """
    step, mask = getattr(query, "step", None), getattr(query, "mask", None)
    asked, caption = picture.image, ""
    if step is not None and method and method.query and method.query.path == "noising":
        noise = seeded_noise(denoiser.latent_shape, query.seed, "shown")[None].to(picture.x0)
        asked = denoiser.decode(denoiser.noise(picture.x0, noise, step))[0]
        caption = f"The finished picture, noised as at step {step}"
    elif step is not None:
        asked = denoiser.decode(picture.x0hats[step])[0]
        caption = f"What the model aimed at, at step {step}"
    if mask is not None:
        mask = read_image(mask, on_black).convert("L")
        asked, caption = outlined(asked, mask), caption or "The part that was asked about"
    if step is None:
        return [(caption, asked)]
    return [(caption, asked), ("The finished picture", picture.image)]


def outlined(image: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """The picture, enlarged, with what is black in the mask faded, and a line around the rest."""
    image = scale(flatten(image), SIDE)
    mask = scale(mask, SIDE).resize(image.size)
    pale = PIL.Image.blend(
        image.convert("L").convert("RGB"), PIL.Image.new("RGB", image.size, "white"), FADED
    )
    shown = PIL.Image.composite(image, pale, mask)
    inside = mask.point([255 * (level >= 128) for level in range(256)])
    line = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(7)), inside)
    shown.paste(PIL.Image.new("RGB", image.size, ACCENT), mask=line)
    return shown
