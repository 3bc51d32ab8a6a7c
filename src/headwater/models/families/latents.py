"""Pictures as an autoencoder's latents, and prompts as its pipeline's tokenizers read them.

What most families have in common beside their network; each says how that is driven.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.gradients.layers import widened
from headwater.models.condition import Condition
from headwater.models.families.autoencoders import autoencoder, decoded, downscaling, encoded
from headwater.models.families.family import Replacement, Words
from headwater.models.families.gates import gates_apart
from headwater.models.families.words import (
    Encode,
    PromptWords,
    limited,
    text_encoders,
    tokenizers_facts,
)
from headwater.models.fitting import Fit


def require_multiples(pipe: Any, size: tuple[int, int], of: int) -> None:
    """Refuse pictures whose (height, width) latents or tokens do not cover.

    Raises:
        ModelError: a side is no multiple of what one covers.
    """
    if any(side % of for side in size):
        raise ModelError(
            f"pictures of {size[0]} x {size[1]} pixels (--resolution, --buckets): "
            f"{type(pipe).__name__} takes multiples of {of}"
        )


class Latents:
    """The part of `family.Family` that is about pictures and prompts.

    Args:
        pipe: a pipeline with an autoencoder, or with none for a network of pixels.
        network: of the pipeline.
        channels: of x0.
        size: (height, width) in pixels.
        encode: what the network reads of texts.
    """

    # What the pipeline reads at most where it does not ask the tokenizer, by name.
    token_limits: ClassVar[Mapping[str, int]] = {}
    mixed: ClassVar[Sequence[str]] = ()
    readings: ClassVar[Collection[str]] = ()
    # Of latents, where the network reads videos: a picture is a video of one frame.
    frames: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        pipe: Any,
        network: nn.Module,
        channels: int,
        size: tuple[int, int],
        encode: Encode,
    ) -> None:
        read_by = text_encoders(pipe)
        self.pipe = limited(pipe, self.token_limits)
        self.network = network
        self.vae: Any = autoencoder(pipe)
        words = PromptWords(self.pipe, encode, self.preface()) if read_by else None
        self.words: Words | None = words
        self.encoders = read_by if self.vae is None else {**read_by, "vae": self.vae}
        self.image_size = size
        factor = downscaling(self.vae)
        self.latent_shape = (channels, *self.frames, size[0] // factor, size[1] // factor)

    def preface(self) -> str:
        """Nothing: what the pipeline says before each prompt."""
        return ""

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The same: it knows nothing of sizes."""
        return condition

    def to_latents(self, pixels: Float[Tensor, "b 3 ph pw"]) -> Float[Tensor, "b c *f h w"]:
        """The mean of the autoencoder's posterior, scaled; the pixels themselves without one."""
        if self.vae is None:
            if self.latent_shape[0] == 1:
                pixels = pixels.mean(1, keepdim=True)
            return widened(pixels.to(next(self.network.parameters())))
        x0 = encoded(self.vae, pixels)
        return x0.unsqueeze(2) if self.frames else x0

    def to_pixels(self, x0: Float[Tensor, "b c *f h w"]) -> Float[Tensor, "b 3 ph pw"]:
        """What the autoencoder decodes."""
        x0 = x0.squeeze(2) if self.frames else x0
        x0 = x0 if self.vae is None else decoded(self.vae, x0)
        return x0.expand(-1, 3, -1, -1)

    def encoding_facts(self) -> Mapping[str, Any]:
        """Sizes, the tokenizers, and whether pictures go through the autoencoder in tiles."""
        return {
            "sizes": [self.image_size, self.latent_shape],
            "tokenizers": tokenizers_facts(self.pipe),
            "tiles": bool(getattr(self.vae, "use_tiling", False)),
        }

    def network_facts(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}

    def kept_projections(self, network: nn.Module) -> Iterable[nn.Linear]:
        """None: words meet the picture before they are projected."""
        return ()

    def faster(self, network: nn.Module, layers: Sequence[nn.Module]) -> Iterable[Replacement]:
        """Gated activations in two products."""
        return gates_apart(network, layers)
