"""UNets of images or latents: Stable Diffusion 1 and 2, DDPM, DDIM, and what is built like them.

A `unet` that is a UNet2DConditionModel or a UNet2DModel, with at most one text encoder and one
autoencoder, and a scheduler of the DDPM family.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from headwater.gradients.layers import widened
from headwater.models.condition import Condition
from headwater.models.families.family import Replacement
from headwater.models.families.gates import gates_apart
from headwater.models.families.sets import UNET
from headwater.models.families.unet_limits import require_supported
from headwater.models.families.words import (
    PromptWords,
    device_of,
    limited,
    text_encoders,
    tokenizers_facts,
)
from headwater.models.fitting import Fit
from headwater.models.schedule import Schedule, preserving

_NETWORKS = ("UNet2DConditionModel", "UNet2DModel")
_KEYS_AND_VALUES = re.compile(UNET["attn2-kv"])


class Unet:
    """See `family.Family`."""

    parameter_sets = UNET
    default_parameters = ("attn2", "attn", "all")
    # Keys and values of cross-attention, which bind pictures to words (the choice of Wang et al.);
    # those of self-attention, in a model that reads no prompts; everything.
    forgotten_parameters = ("attn2-kv", r"\.to_[kv](\.|$)", "all")

    # Parts and settings that the family takes besides those of Stable Diffusion 1.
    handled: ClassVar[Sequence[str]] = ()

    def __init__(self, pipe: Any) -> None:
        require_supported(pipe, self.handled)
        read_by = text_encoders(pipe)
        self.pipe = limited(pipe)
        self.network: nn.Module = pipe.unet
        self._vae: Any = getattr(pipe, "vae", None)
        self.words = PromptWords(self.pipe, self._encode) if read_by else None
        self.encoders = read_by if self._vae is None else {**read_by, "vae": self._vae}
        config = pipe.unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        self.latent_shape = (config.in_channels, height, width)
        factor = 1 if self._vae is None else 2 ** (len(self._vae.config.block_out_channels) - 1)
        self.image_size = (height * factor, width * factor)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """Whether its `unet` is one of diffusers' own."""
        return type(getattr(pipe, "unet", None)).__name__ in _NETWORKS

    def schedule(self) -> Schedule:
        """Of the pipeline's scheduler, whichever sampler that is."""
        scheduler = self.pipe.scheduler
        prediction = scheduler.config.get("prediction_type", "epsilon")
        return preserving(scheduler.alphas_cumprod, prediction)

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: int,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """What the network predicts; learned variances come after it."""
        given = {} if condition is None else condition.tensors
        return network(xt, t, **given).sample[:, : xt.shape[1]]

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The same: it knows nothing of sizes."""
        return condition

    def _encode(self, pipe: Any, texts: list[str]) -> Condition:
        encoded = pipe.encode_prompt(texts, device_of(pipe), 1, False)[0]
        return Condition({"encoder_hidden_states": encoded})

    # --- in and out ------------------------------------------------------------------------

    def to_latents(self, pixels: Float[Tensor, "b 3 ph pw"]) -> Float[Tensor, "b c h w"]:
        """The mean of the autoencoder's posterior, scaled; the pixels themselves without one."""
        if self._vae is None:
            if self.latent_shape[0] == 1:
                pixels = pixels.mean(1, keepdim=True)
            return widened(pixels.to(next(self.network.parameters())))
        encoded = self._vae.encode(pixels.to(next(self._vae.parameters())))
        # AutoencoderTiny has latents and no posterior
        x0 = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        return (widened(x0) - self._shift()) * self._vae.config.scaling_factor

    def to_pixels(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 ph pw"]:
        """What the autoencoder decodes."""
        if self._vae is not None:
            x0 = x0 / self._vae.config.scaling_factor + self._shift()
            x0 = self._vae.decode(x0.to(next(self._vae.parameters()))).sample
        return x0.expand(-1, 3, -1, -1)

    def _shift(self) -> float:
        return getattr(self._vae.config, "shift_factor", None) or 0.0

    # --- identity --------------------------------------------------------------------------

    def encoding_facts(self) -> Mapping[str, Any]:
        """Sizes, the tokenizer, and whether pictures go through the autoencoder in tiles."""
        return {
            "sizes": [self.image_size, self.latent_shape],
            "tokenizers": tokenizers_facts(self.pipe),
            "tiles": bool(getattr(self._vae, "use_tiling", False)),
        }

    def network_facts(self) -> Mapping[str, Any]:
        """What `enable_freeu` set: factors of backbone and skip features, block by block."""
        blocks = dict(self.network.named_modules())
        return {
            f"{name}.{factor}": vars(block)[factor]
            for name, block in blocks.items()
            for factor in ("s1", "s2", "b1", "b2")
            if isinstance(vars(block).get(factor), (int, float))
        }

    # --- patches ---------------------------------------------------------------------------

    def kept_projections(self, network: nn.Module) -> Iterator[nn.Linear]:
        """Cross-attention keys and values."""
        for name, module in network.named_modules():
            if type(module) is nn.Linear and _KEYS_AND_VALUES.search(name):
                yield module

    def faster(self, network: nn.Module, layers: Sequence[nn.Module]) -> Iterable[Replacement]:
        """Gated activations in two products."""
        return gates_apart(network, layers)
