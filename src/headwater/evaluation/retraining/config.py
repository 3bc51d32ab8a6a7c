"""How a small model is made and trained, as data: a JSON file, or one of `experiments/`.

A configuration names a base pipeline, whose autoencoder, tokenizer and noise schedule are used as
they are, and says how its network and text encoder differ; those begin with random weights of the
seed. The network may be of another family than the base's. Without a base the model is
unconditional and works on pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headwater.errors import ModelError
from headwater.evaluation.retraining.weights import WEIGHTS


@dataclass(frozen=True)
class Phase:
    """One part of a training: its steps, and how much each noise level counts.

    `weight` is a name of `WEIGHTS`; `stop` leaves the schedule of `steps` early.

    Raises:
        ValueError: there is no such weight, or a number is none from 1 up, or `stop` is too late.
    """

    steps: int
    batch: int = 32
    learning_rate: float = 1e-3
    weight: str = "even"
    stop: int | None = None
    name: str = "denoiser"

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise ValueError(f"weight is {self.weight!r}, and not one of {', '.join(WEIGHTS)}")
        numbers = {"steps": self.steps, "batch": self.batch, "stop": self.last}
        for name, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} is {number!r}, and not a whole number from 1 up")
        if self.last > self.steps:
            raise ValueError(f"stop is {self.stop}, after the last of {self.steps} steps")

    @property
    def last(self) -> int:
        """How many steps are taken."""
        return self.steps if self.stop is None else self.stop


# A text encoder that begins with the base's weights and learns on.
CONTINUE = "continue"


@dataclass(frozen=True)
class ModelConfig:
    """How a small model is made and trained.

    Args:
        phases: its training, part after part.
        base: a pipeline as `Denoiser.load` takes it; "" for an unconditional model of pixels.
        family: of the network, a name of `networks.AROUND`; "" for the base's own.
        network: what differs from the base's network, or, of another family, from its smallest; or,
            without a base, all that `UNet2DModel` takes. None begins with the base's own weights.
        text_encoder: what differs from the base's; None keeps that as it is, weights and all, and
            `CONTINUE` begins with the base's weights and trains them on.
        caption_dropout: how often a caption is replaced by the empty one, for guidance.
        ema_decay: of the moving average of the weights, which is what is kept.
        flip: whether each picture is mirrored half of the time.
    """

    phases: tuple[Phase, ...]
    base: str = "scenes"
    family: str = ""
    network: Mapping[str, Any] | None = field(default_factory=dict)
    text_encoder: Mapping[str, Any] | str | None = field(default_factory=dict)
    caption_dropout: float = 0.1
    ema_decay: float = 0.9995
    flip: bool = False

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("phases is empty: a model that is not trained has learned nothing")
        given = self.text_encoder
        if not (given is None or given == CONTINUE or isinstance(given, Mapping)):
            raise ValueError(f"text_encoder is {given!r}, and not an object, null or {CONTINUE!r}")
        if given == CONTINUE and not self.base:
            raise ValueError(f"without a base there is no text encoder to {CONTINUE}")
        if self.family and (not self.base or self.network is None or given is not None):
            raise ValueError(
                f"a network of {self.family!r} reads the base's text encoder as it is, and begins "
                "with random weights: give a base, network {} and text_encoder null"
            )

    def facts(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def read_config(path: Path) -> ModelConfig:
    """A configuration from a JSON file.

    Raises:
        ModelError: unreadable, or it has a name that there is not.
    """
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if "unet" in facts:
            raise ValueError("what was `unet` is called `network`")
        phases = tuple(Phase(**each) for each in facts["phases"])
        return ModelConfig(**{**facts, "phases": phases})
    except KeyError as error:
        raise ModelError(f"{path} is no configuration of a model: it lacks {error}") from None
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no configuration of a model: {error}") from None
