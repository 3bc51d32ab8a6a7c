"""Draw a scene as a 64x64 picture: shapes are polygons, styles are what is done with their mask."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from headwater.scenes.vocabulary import ATTRIBUTES

SIZE = 64
_SUPERSAMPLE = 4
_FINE = SIZE * _SUPERSAMPLE

_RGB = {
    "red": (222, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 208, 20),
    "green": (40, 160, 70),
    "cyan": (30, 190, 205),
    "blue": (40, 80, 215),
    "purple": (130, 55, 185),
    "pink": (250, 125, 185),
}


@dataclass(frozen=True)
class Scene:
    """One picture: four attributes (the truth), and where and how large the object stands.

    `x`, `y` are the centre as a share of the frame, `radius` the object's half extent likewise,
    `tilt` is in degrees, `tone` picks the background's hue (all three tones are pale or dark greys
    that no object colour comes near).
    """

    object: str
    colour: str
    style: str
    background: str
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.32
    tilt: float = 0.0
    tone: float = 0.0

    @property
    def attributes(self) -> dict[str, str]:
        """The truth: attribute -> value."""
        values = (self.colour, self.object, self.style, self.background)
        return dict(zip(ATTRIBUTES, values, strict=True))


def draw(scene: Scene) -> Image.Image:
    """`scene` as a 64x64 RGB image. The same scene always gives the same pixels."""
    canvas = _BACKGROUNDS[scene.background](scene.tone)
    rgb = np.array(_RGB[scene.colour], np.float32) / 255
    for paint, alpha in _STYLES[scene.style](_mask(scene), scene, rgb):
        canvas += alpha[..., None] * (paint - canvas)
    fine = canvas.reshape(SIZE, _SUPERSAMPLE, SIZE, _SUPERSAMPLE, 3).mean((1, 3))
    return Image.fromarray((fine.clip(0, 1) * 255 + 0.5).astype(np.uint8))


# --- Objects: a closed outline within the unit circle, y pointing down -----------------------


def _polar(radius: Callable[[np.ndarray], np.ndarray], points: int = 160) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius(angle)
    return np.stack([r * np.sin(angle), -r * np.cos(angle)], 1)


def _star() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    r = np.where(np.arange(10) % 2 == 0, 1.0, 0.43)
    return np.stack([r * np.sin(angle), -r * np.cos(angle)], 1)


def _heart() -> np.ndarray:
    a = np.linspace(0, 2 * np.pi, 160, endpoint=False)
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.stack([np.sin(a) ** 3 * 0.95, -(y + 2.5) / 16], 1)


def _moon() -> np.ndarray:
    outer = np.radians(np.linspace(35, 325, 80))
    inner = np.radians(np.linspace(305, 55, 80))
    return np.concatenate([
        np.stack([np.cos(outer), np.sin(outer)], 1),
        np.stack([0.46 + 0.63 * np.cos(inner), 0.72 * np.sin(inner)], 1),
    ]) + np.array([0.1, 0])  # fmt: skip


def _fish() -> np.ndarray:
    a = np.radians(np.linspace(22, 338, 90))
    body = np.stack([-0.22 + 0.76 * -np.cos(a + np.pi), 0.52 * np.sin(a)], 1)
    return np.concatenate([body, [[0.98, -0.55], [0.8, 0.0], [0.98, 0.55]]])


def _mushroom() -> np.ndarray:
    a = np.radians(np.linspace(180, 360, 60))
    cap = np.stack([np.cos(a) * 0.98, 0.1 + np.sin(a) * 0.95], 1)
    return np.concatenate([cap, [[0.3, 0.1], [0.36, 0.9], [-0.36, 0.9], [-0.3, 0.1]]])


_OBJECTS = {
    "star": _star(),
    "heart": _heart(),
    "moon": _moon(),
    "tree": np.array([
        [0, -1], [0.5, -0.38], [0.3, -0.38], [0.7, 0.12], [0.45, 0.12], [0.85, 0.62],
        [0.17, 0.62], [0.17, 1], [-0.17, 1], [-0.17, 0.62], [-0.85, 0.62], [-0.45, 0.12],
        [-0.7, 0.12], [-0.3, -0.38], [-0.5, -0.38],
    ]),
    "house": np.array([
        [0, -0.95], [0.95, -0.12], [0.7, -0.12], [0.7, 0.85], [0.2, 0.85], [0.2, 0.3],
        [-0.2, 0.3], [-0.2, 0.85], [-0.7, 0.85], [-0.7, -0.12], [-0.95, -0.12],
    ]),
    "fish": _fish(),
    "flower": _polar(lambda a: 0.52 + 0.46 * np.abs(np.cos(2.5 * a))),
    "arrow": np.array([
        [0, -1], [0.8, -0.15], [0.3, -0.15], [0.3, 0.95], [-0.3, 0.95], [-0.3, -0.15],
        [-0.8, -0.15],
    ]),
    "mushroom": _mushroom(),
    "crown": np.array([
        [-0.95, -0.6], [-0.5, 0.0], [0, -0.85], [0.5, 0.0], [0.95, -0.6], [0.78, 0.75],
        [-0.78, 0.75],
    ]),
    # of UNSEEN_OBJECTS
    "cross": np.array([
        [-0.3, -0.95], [0.3, -0.95], [0.3, -0.3], [0.95, -0.3], [0.95, 0.3], [0.3, 0.3],
        [0.3, 0.95], [-0.3, 0.95], [-0.3, 0.3], [-0.95, 0.3], [-0.95, -0.3], [-0.3, -0.3],
    ]),
}  # fmt: skip


def _outline(scene: Scene) -> list[tuple[float, float]]:
    """The object's corners in pixels of the fine canvas."""
    angle = math.radians(scene.tilt)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corners = _OBJECTS[scene.object] @ turn * scene.radius + [scene.x, scene.y]
    return [(x, y) for x, y in (corners * _FINE).tolist()]


def _mask(scene: Scene) -> Image.Image:
    """The object's silhouette on the fine canvas, 8-bit grey."""
    mask = Image.new("L", (_FINE, _FINE))
    ImageDraw.Draw(mask).polygon(_outline(scene), fill=255)
    return mask


# --- Styles: mask -> layers of (paint, alpha), painted one over the other ---------------------

Layers = list[tuple[np.ndarray, np.ndarray]]


def _alpha(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _blur(image: Image.Image, pixels: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(pixels * _SUPERSAMPLE))


def _ring(mask: Image.Image, scene: Scene, pixels: float) -> Image.Image:
    """The band of this width just inside the silhouette."""
    line = Image.new("L", mask.size)
    corners = _outline(scene)
    closed = [*corners, *corners[:2]]
    ImageDraw.Draw(line).line(closed, 255, round(2 * pixels * _SUPERSAMPLE), joint="curve")
    return ImageChops.multiply(line, mask)


def _object_axes(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates relative to the object's centre, as (y column, x row)."""
    grid = (np.arange(_FINE, dtype=np.float32) + 0.5) / _SUPERSAMPLE
    return (grid - scene.y * SIZE)[:, None], (grid - scene.x * SIZE)[None, :]


def _flat(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    return [(rgb, _alpha(mask))]


def _outlined(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    return [(rgb, _alpha(_ring(mask, scene, 3.0)))]


def _hatched(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    y, x = _object_axes(scene)
    lines = ((x + y) / math.sqrt(2) % 6 < 3).astype(np.float32)
    return [(rgb, np.maximum(lines * _alpha(mask), _alpha(_ring(mask, scene, 1.25))))]


def _dotted(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    y, x = _object_axes(scene)
    dots = ((x % 7 - 3.5) ** 2 + (y % 7 - 3.5) ** 2 < 2.5**2).astype(np.float32)
    pale = 0.35 * rgb + 0.65
    inside = _alpha(mask)
    return [(pale, inside), (rgb, dots * inside)]


def _blurred(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    return [(rgb, _alpha(_blur(mask, 3.0)))]


def _neon(mask: Image.Image, scene: Scene, rgb: np.ndarray) -> Layers:
    line = _ring(mask, scene, 2.5)
    halo = (2.6 * _alpha(_blur(line, 3.2))).clip(0, 1)
    night = np.array([0.07, 0.07, 0.12], np.float32)
    core = 0.35 * rgb + 0.65
    return [
        (night, 0.9 * _alpha(_blur(mask, 1.0))),
        (rgb, halo),
        (core, _alpha(_blur(line, 0.4))),
    ]


_STYLES = {
    "flat": _flat,
    "outlined": _outlined,
    "hatched": _hatched,
    "dotted": _dotted,
    "blurred": _blurred,
    "neon": _neon,
}


# --- Backgrounds: tone -> the fine canvas, float RGB ------------------------------------------

_AXIS = (np.arange(_FINE, dtype=np.float32) + 0.5) / _SUPERSAMPLE
_Y, _X = _AXIS[:, None], _AXIS[None, :]


def _tones(tone: float) -> tuple[np.ndarray, np.ndarray]:
    """A pale grey with a breath of hue, and the same a step darker."""
    hue = 2 * math.pi * (tone + np.arange(3, dtype=np.float32) / 3)
    pale = (0.91 + 0.035 * np.cos(hue)).astype(np.float32)
    return pale, pale * np.float32(0.8)


def _between(tone: float, share: np.ndarray) -> np.ndarray:
    pale, dark = _tones(tone)
    share = np.broadcast_to(share, (_FINE, _FINE))[..., None].astype(np.float32)
    return pale + share * (dark - pale)


def _plain(tone: float) -> np.ndarray:
    return _between(tone, np.zeros((1, 1)))


def _striped(tone: float) -> np.ndarray:
    return _between(tone, _X % 10 < 5)


def _checkered(tone: float) -> np.ndarray:
    return _between(tone, (_X // 8 + _Y // 8) % 2)


def _gradient(tone: float) -> np.ndarray:
    return _between(tone, 2.6 * _Y / SIZE)


def _wavy(tone: float) -> np.ndarray:
    return _between(tone, (_Y + 2.5 * np.sin(_X * 2 * np.pi / 21)) % 11 < 5.5)


def _starlit(tone: float) -> np.ndarray:
    pale, _ = _tones(tone)
    night = pale * np.array([0.2, 0.22, 0.34], np.float32)
    return np.where(_lights()[..., None], np.float32(0.93), night)


@functools.cache
def _lights() -> np.ndarray:
    """Where the 26 stars of the night sky shine: the same in every picture, as the sky is."""
    centres = np.random.default_rng(7).uniform(2, SIZE - 2, (26, 2))
    return np.any([(_Y - y) ** 2 + (_X - x) ** 2 < 1.1**2 for y, x in centres], axis=0)


_BACKGROUNDS = {
    "plain": _plain,
    "striped": _striped,
    "checkered": _checkered,
    "gradient": _gradient,
    "wavy": _wavy,
    "starlit": _starlit,
}
