"""The contract of a family of models: all that differs between one kind of pipeline and another.

A family is one small file. `headwater.models.denoiser` drives any of them and holds what all have
in common: types, devices, fingerprints, pictures. To add one, write a class that keeps this
contract and name it in the table of `headwater.models.families`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.fitting import Fit
from headwater.models.schedule import Schedule, Timestep

# A module, and what it computes instead of its own `forward`; see `patches.swapped_forwards`.
Replacement = tuple[nn.Module, Callable[..., Any]]


@dataclass(frozen=True)
class Reading:
    """How a pipeline is read, where that is not as it was saved; see `ModelOptions`."""

    resolution: int | Sequence[int] | None = None
    clip_skip: int | None = None
    distilled_guidance: float | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, if it is not the pipeline's own."""
        if self.resolution is None:
            return None
        sides = self.resolution
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return height, width

    def refused(self, pipe: Any, name: str) -> ModelError:
        """What to raise where something of it was given, and means nothing to this pipeline."""
        return ModelError(
            f"--{name.replace('_', '-')} {getattr(self, name)} is for {_READERS[name]}, and "
            f"this {type(pipe).__name__} is none: leave it out"
        )


AS_SAVED = Reading()
_READERS = {
    "clip_skip": "pipelines whose prompts CLIP reads layer by layer (Stable Diffusion 1, 2, XL)",
    "distilled_guidance": "pipelines whose network is told of it (Flux.1-dev, Flux.2-dev, LCM)",
}


@runtime_checkable
class Words(Protocol):
    """How a family reads prompts, and how a new word is taught to it (textual inversion).

    Attributes:
        encoders: the networks that read them.
        token_limit: of a prompt, with begin and end.
    """

    encoders: Sequence[nn.Module]
    token_limit: int

    def encode(self, texts: Sequence[str]) -> Condition:
        """What the network reads beside x_t, with its graph where gradients are on."""
        ...

    def names(self) -> Collection[str]:
        """All tokens that are known."""
        ...

    def initial(self, text: str) -> Float[Tensor, " e"]:
        """The mean embedding of a text's tokens, or of all tokens for a text of none."""
        ...

    def scale(self) -> float:
        """The root mean square of the embeddings of all tokens."""
        ...

    def cut(self, texts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Text -> (words read, words lost), of each that is longer than `token_limit`."""
        ...

    def reader(
        self, name: str, vector: Float[Tensor, " e"]
    ) -> AbstractContextManager[Callable[[Sequence[str]], Condition]]:
        """Inside, what encodes prompts that may hold a new token of this name and embedding.

        With its graph to the vector. Whoever encodes prompts elsewhere meanwhile, in another
        thread or by the pipeline itself, sees nothing of it.
        """
        ...


@runtime_checkable
class Family(Protocol):
    """One kind of pipeline, bound to one pipeline.

    Attributes:
        parameter_sets: name -> regular expression of module names, for `--parameters`. "lora" and
            "all" are every family's.
        default_parameters: sets in order of preference; the first that matches a layer is taken.
        forgotten_parameters: the same, for the weights that unlearning moves.
        readings: names of what of a `Reading` it takes, besides the resolution.
        mixed: names of the network's modules that take a batch as one sequence, so that no sample
            has a row of its own there: they are not attributed.
        pipe: the pipeline that it was made from.
        network: what is attributed.
        encoders: by name, what pictures and prompts are encoded by, in a fixed order.
        latent_shape: (channels, height, width) of x0; of videos (channels, frames, height, width),
            which annotations write as `c *f h w`.
        image_size: (height, width) in pixels.
        words: how prompts are read; None for a model that reads none.
    """

    parameter_sets: ClassVar[Mapping[str, str]]
    default_parameters: ClassVar[Sequence[str]]
    forgotten_parameters: ClassVar[Sequence[str]]
    mixed: ClassVar[Sequence[str]]
    readings: ClassVar[Collection[str]]
    pipe: Any
    network: nn.Module
    encoders: Mapping[str, nn.Module]
    latent_shape: tuple[int, ...]
    image_size: tuple[int, int]
    words: Words | None

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        """Bind a pipeline that the family `takes`.

        Args:
            reading: how, if not as it was saved.

        Raises:
            ModelError: the network cannot be read so; or it is of this family, but wants
                what a question cannot give, or what would fail later, or would give numbers that
                mean nothing.
        """
        ...

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether a pipeline is of this family, by its parts; never raises."""
        ...

    def schedule(self) -> Schedule:
        """The noise schedule that the network was trained with, and what it predicts.

        Raises:
            ModelError: the pipeline's scheduler has none, or predicts something else.
        """
        ...

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c *f h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c *f h w"]:
        """What the network predicts, without learned variances, with its graph.

        Args:
            network: the family's own, or a copy of it in another type.
            xt: in the network's type.
            t: timestep of all rows, or of each.
            condition: as `words.encode` makes it, in the network's type; None without words.
        """
        ...

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The conditions of captions as those of these pictures, a row for each.

        For networks that read what size a picture had; others give back what they were given.
        """
        ...

    def to_latents(self, pixels: Float[Tensor, "b 3 ph pw"]) -> Float[Tensor, "b c *f h w"]:
        """x0 in float32 or better, where the parts are. Nothing is random.

        Args:
            pixels: of `image_size`, from -1 to 1, float32, on the CPU.
        """
        ...

    def to_pixels(self, x0: Float[Tensor, "b c *f h w"]) -> Float[Tensor, "b 3 ph pw"]:
        """Pictures from -1 to 1 in the decoder's type, with their graph."""
        ...

    def encoding_facts(self) -> Mapping[str, Any]:
        """All that encoding depends on besides the encoders themselves; as JSON takes it."""
        ...

    def network_facts(self) -> Mapping[str, Any]:
        """All that the network's numbers depend on besides its weights, configuration, adapters."""
        ...

    def kept_projections(self, network: nn.Module) -> Iterable[nn.Linear]:
        """Layers that see the condition alone, so that once for each condition is enough."""
        ...

    def faster(self, network: nn.Module, layers: Sequence[nn.Module]) -> Iterable[Replacement]:
        """Forwards that say the same while gradients are taken: in less time, or layer by layer.

        None of `layers` is bypassed, and each is called with a row for each sample, where the
        network itself takes a batch as one sequence.
        """
        ...
