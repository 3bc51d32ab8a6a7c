"""How far two colours differ to eyes that lack one kind of cone, and to others.

Dichromats are simulated by the matrices of Machado, Oliveira and Fernandes 2009 ("A
physiologically-based model for simulation of color vision deficiency", table 1, severity 1.0), on
linear RGB; differences are those of CIE 1976: distances in CIELAB under D65.
"""

import numpy as np

VISIONS = {
    "trichromat": np.eye(3),
    "protanope": np.array([
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranope": np.array([
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanope": np.array([
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
# from linear sRGB to CIE XYZ
_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
JUST_SEEN = 2.3  # between fields that touch: Mahy, Van Eycken and Oosterlinck 1994


def difference(one: str, other: str, vision: str) -> float:
    """Delta E of two colours such as "#0b6e83"."""
    eye = VISIONS[vision]
    return float(np.linalg.norm(_lab(eye @ _linear(one)) - _lab(eye @ _linear(other))))


def contrast(one: str, other: str) -> float:
    """The ratio of luminances that WCAG 2 asks 3 of, where a drawing must be seen."""
    low, high = sorted(float(_XYZ[1] @ _linear(each)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def _linear(colour: str) -> np.ndarray:
    levels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _lab(linear: np.ndarray) -> np.ndarray:
    relative = _XYZ @ np.clip(linear, 0, 1) / _XYZ.sum(axis=1)
    f = np.where(relative > 216 / 24389, np.cbrt(relative), (24389 / 27 * relative + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
