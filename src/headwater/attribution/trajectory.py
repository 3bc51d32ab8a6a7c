"""The journey of a picture: which training images mattered at each step of its making?

Every step t of a picture's trajectory aims at a clean picture x0hat_t. Journey-TRAK (Georgiev
2023) asks of each on its own: x0hat_t is noised again to the same t, draw by draw, and what the
denoising loss asks there is attributed. A journey is one `Attribution` for each step; the pure
functions below compare them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float

from headwater.attribution.answer.result import Attribution, leading
from headwater.attribution.attributor import Options, attribute_all, require_question
from headwater.attribution.resources import Resources
from headwater.errors import QueryError, first_line
from headwater.methods.choice import choose
from headwater.queries.image import Image

# Pictures -> for each feature, by name, its probability in each picture.
Judge = Callable[[Sequence[PIL.Image.Image]], Mapping[str, Iterable[float]]]


def attribute_steps(resources: Resources, query: Image, options: Options) -> list[Attribution]:
    """An attribution for each of the index's timesteps, noisiest first.

    A timestep that the picture's trajectory does not pass is answered by the nearest that it does.

    Args:
        query: a picture that the model makes, or a part of it.
        options: its method is one that takes journeys; by default the first that the index serves.

    Raises:
        QueryError: the picture is a file, or the question is of one step.
        MethodError: the method cannot, or the index does not serve one that can.
    """
    require_question(query)
    if query.file is not None:
        raise QueryError(
            "--journey is of the making of a picture, and a file was made elsewhere: give "
            "--prompt and --seed instead of the file"
        )
    if query.step is not None:
        raise QueryError("--journey is of every step: leave --step out")
    index = resources.index
    method = choose(options.method, index.recipe.method, index.methods(), "journey").name
    passed = sorted(resources.picture(query).x0hats)
    nearest = [min(passed, key=lambda t: abs(t - step)) for step in index.recipe.timesteps]
    steps = sorted(set(nearest), reverse=True)
    chosen = replace(options, method=method)
    return attribute_all(resources, [replace(query, step=step) for step in steps], chosen)


def overlaps(scores: Float[np.ndarray, "s n"], count: int = 10) -> Float[np.ndarray, "s s"]:
    """The share of the `count` highest of every step that any other has there too.

    >>> overlaps(np.array([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]]), count=2).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    inside = np.zeros(scores.shape)
    for own, found in zip(scores, inside, strict=True):
        found[leading(own, count)] = 1
    return inside @ inside.T / min(count, scores.shape[1])


def likelihoods(
    resources: Resources, attributions: Sequence[Attribution], judge: Judge
) -> dict[str, list[float]]:
    """For each feature of a judge, how likely it is in what each step aimed at: when does it come?

    Raises:
        QueryError: the judge fails, or gives something else than a number for each picture.
    """
    pictures = [picture for _, picture in aims(resources, attributions)]
    try:
        said = judge(pictures)
    except Exception as error:  # the user's function raises whatever it likes
        raise QueryError(
            f"the judge fails on {len(pictures)} pictures: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(said, Mapping) or not said:
        raise QueryError(
            "the judge must return a dict, from the name of each feature to its probability in "
            f"each picture, not {_short(said)}"
        )
    return {str(name): _each(name, values, len(pictures)) for name, values in said.items()}


def _each(name: object, values: Any, count: int) -> list[float]:
    """The values, if they are a finite number for each picture."""
    try:
        found = np.array([float(value) for value in values])
    except (TypeError, ValueError):
        found = np.empty(0)
    if len(found) != count or not np.isfinite(found).all():
        raise QueryError(
            f"the judge must give {str(name)!r} a finite number for each of {count} pictures, not "
            f"{_short(values)}"
        )
    return found.tolist()


def _short(value: object) -> str:
    said = " ".join(repr(value).split())
    return said if len(said) <= 60 else f"{said[:57]}..."


def aims(
    resources: Resources, attributions: Sequence[Attribution]
) -> list[tuple[int, PIL.Image.Image]]:
    """(t, the picture that the model aimed at there) for each step of a journey."""
    pictures, denoiser = [], resources.denoiser
    for attribution in attributions:
        query = attribution.query
        assert isinstance(query, Image) and query.step is not None, "not a journey"
        x0hat = resources.picture(query).x0hats[query.step]
        pictures.append((query.step, denoiser.decode(x0hat.to(denoiser.device))[0]))
    return pictures
