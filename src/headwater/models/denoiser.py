r"""A diffusers pipeline seen as one function, eps(x_t, t, c).

Names follow the papers: x0 is a clean latent, xt its noisy version at integer timestep t, eps the
noise, alpha_bar[t] the share of signal power left: xt = sqrt(alpha_bar) x0 + sqrt(1-alpha_bar) eps.
Whatever the network predicts (epsilon, v, sample), `predict` returns eps. Nothing outside this
file knows which family of models it deals with.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor, nn

from headwater.errors import HeadwaterWarning, ModelError
from headwater.models.load import load_pipeline, place
from headwater.runtime.memory import usable_device

# Networks that this file can drive. Both have prediction_type and alphas_cumprod schedulers.
_FAMILIES = ("UNet2DConditionModel", "UNet2DModel")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoiser:
    """eps(x_t, t, c) of a loaded pipeline, with its way in (encode) and out (decode).

    Args:
        pipe: a diffusers pipeline with a `unet` (Stable Diffusion 1.x and 2.x, DDPM, DDIM, and
            what is built like them).
        source: where it came from, written into results so that a later process can load it.
        device: where to compute; CUDA if there is one, else the CPU.
        dtype: of the weights; latents stay in float32 where that is a half precision. The
            pipeline's parts are moved there and stay there.
        lora: where the pipeline's LoRA adapters came from, if not with it.

    Raises:
        ModelError: the pipeline is of a family that is not supported.
    """

    def __init__(
        self,
        pipe: Any,
        source: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        lora: str = "",
    ) -> None:
        _require_supported(pipe)
        network, text_encoder = pipe.unet, getattr(pipe, "text_encoder", None)
        self.source, self.lora = source, lora
        self.device = usable_device(device)
        self.dtype = dtype
        # A trajectory adds up many small steps, which half precision would lose.
        self.latent_dtype = torch.promote_types(dtype, torch.float32)
        for part in filter(None, (network, getattr(pipe, "vae", None), text_encoder)):
            # diffusers' own `to` warns of casts; attribution needs one type throughout
            nn.Module.to(part, self.device, dtype)
        self.pipe = pipe
        self.network: nn.Module = pipe.unet
        # Some schedules end in pure noise, where x0hat would be 0/0; Euler's floor is 2^-24 too.
        alpha_bar = pipe.scheduler.alphas_cumprod.to(self.device, torch.float32)
        self.alpha_bar = alpha_bar.clamp_min(2**-24)
        config = pipe.scheduler.config
        self.prediction_type: str = config.get("prediction_type", "epsilon")
        if self.prediction_type not in _PREDICTIONS:
            raise ModelError(
                f"prediction type {self.prediction_type!r} is not one of {', '.join(_PREDICTIONS)}"
            )
        self._vae = getattr(pipe, "vae", None)
        self._fingerprint: str | None = None
        self._encoders_fingerprint: str | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        lora: str | Path | None = None,
    ) -> Denoiser:
        """Load a local folder, a hub name, or "scenes", the bundled model.

        `lora` is a folder or a file of LoRA adapters that `save_lora_weights` wrote, or a hub name.

        Raises:
            ModelError: there is no such model, or it cannot be read.
        """
        pipe = load_pipeline(model, lora)
        return cls(pipe, place(model), device, dtype, "" if lora is None else place(lora))

    # --- the prediction --------------------------------------------------------------------

    def predict(
        self,
        xt: Float[Tensor, "b c h w"],
        t: int,
        condition: Float[Tensor, "b l e"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """The predicted noise at timestep t, with its graph where gradients are on.

        The network sees xt in its own type; eps comes back in xt's.
        """
        given = {} if condition is None else {"encoder_hidden_states": condition}
        out = self.network(xt.to(self.dtype), t, **given).sample
        out = out[:, : xt.shape[1]].to(xt.dtype)  # learned variances come after the prediction
        signal, noise = self.signal_noise(t)
        if self.prediction_type == "epsilon":
            return out
        if self.prediction_type == "v_prediction":
            return signal * out + noise * xt
        return (xt - signal * out) / noise  # "sample"

    def clean(self, xt: Tensor, t: int, eps: Tensor) -> Tensor:
        """x0hat that eps implies: (xt - sqrt(1-alpha_bar) eps) / sqrt(alpha_bar)."""
        signal, noise = self.signal_noise(t)
        return (xt - noise * eps) / signal

    def noise(self, x0: Tensor, eps: Tensor, t: int) -> Tensor:
        """Noisy xt = sqrt(alpha_bar) x0 + sqrt(1-alpha_bar) eps."""
        signal, noise = self.signal_noise(t)
        return signal * x0 + noise * eps

    def signal_noise(self, t: int) -> tuple[float, float]:
        """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at timestep t."""
        alpha_bar = self.alpha_bar[t].item()
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    # --- in and out ------------------------------------------------------------------------

    @property
    def conditional(self) -> bool:
        """Whether the model reads a prompt."""
        return getattr(self.pipe, "text_encoder", None) is not None

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of x0."""
        config: Any = self.network.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        _, height, width = self.latent_shape
        factor = 1 if self._vae is None else 2 ** (len(self._vae.config.block_out_channels) - 1)
        return height * factor, width * factor

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "b c h w"]:
        """x0 of pictures, scaled and centre-cropped to the model's own size. Nothing is random."""
        height, width = self.image_size
        fitted = [ImageOps.fit(image.convert("RGB"), (width, height)) for image in images]
        stack = np.stack([np.asarray(image, np.float32) for image in fitted])
        pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
        if self.latent_shape[0] == 1:
            pixels = pixels.mean(1, keepdim=True)
        pixels = pixels.to(self.device, self.dtype)
        if self._vae is None:
            return pixels.to(self.latent_dtype)
        shift = getattr(self._vae.config, "shift_factor", None) or 0.0
        mean = self._vae.encode(pixels).latent_dist.mean
        return (mean.to(self.latent_dtype) - shift) * self._vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "b c h w"]) -> list[Image.Image]:
        """Pictures of clean latents."""
        arrays = (self.pixels(x0) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(array) for array in arrays]

    def pixels(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 ph pw"]:
        """Pictures of clean latents as numbers from 0 to 1, with their graph."""
        if self._vae is not None:
            shift = getattr(self._vae.config, "shift_factor", None) or 0.0
            x0 = x0 / self._vae.config.scaling_factor + shift
            x0 = self._vae.decode(x0.to(self.dtype)).sample
        return ((x0.to(self.latent_dtype) + 1) / 2).clamp(0, 1).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Float[Tensor, "b l e"] | None:
        """Conditions for captions; None for a model that reads none."""
        if not self.conditional:
            return None
        unique = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
        embedded = torch.cat([
            self.pipe.encode_prompt(part, self.device, 1, False)[0]
            for part in _chunks(list(unique), 64)
        ])  # fmt: skip
        return embedded[[unique[caption] for caption in captions]].to(self.dtype)

    def cut_prompts(self, prompts: Sequence[str]) -> dict[str, tuple[str, str]]:
        """(words read, words lost) of each prompt that is longer than the text encoder takes."""
        if not self.conditional or not prompts:
            return {}
        tokenizer = self.pipe.tokenizer
        limit = tokenizer.model_max_length
        unique = list(dict.fromkeys(prompts))
        return {
            prompt: (tokenizer.decode(ids[1 : limit - 1]), tokenizer.decode(ids[limit - 1 : -1]))
            for prompt, ids in zip(unique, tokenizer(unique).input_ids, strict=True)
            if len(ids) > limit
        }

    def warn_of_lost_words(self, captions: Sequence[str]) -> None:
        """Warn (HeadwaterWarning) of captions longer than the text encoder takes."""
        cut = self.cut_prompts(captions)
        if cut:
            caption, (_, words) = next(iter(cut.items()))
            warnings.warn(
                f"{len(cut)} caption(s) longer than the {self.pipe.tokenizer.model_max_length} "
                f"tokens that the text encoder takes; {caption[:60]!r} lost the words "
                f"{words[:60]!r}",
                HeadwaterWarning,
                stacklevel=2,
            )

    # --- identity --------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 over weights, alpha_bar, the kind of prediction, and what encoding depends on.

        Computed once: weights are taken to stay as they are while a Denoiser is in use.
        """
        if self._fingerprint is None:
            digest = self._weights_digest("unet", "text_encoder", "vae")
            digest.update(f"{self.prediction_type}|{self._encoding()}".encode())
            digest.update(self.alpha_bar.cpu().numpy().tobytes())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def encoders_fingerprint(self) -> str:
        """sha256 over all that `encode_images` and `encode_captions` depend on."""
        if self._encoders_fingerprint is None:
            digest = self._weights_digest("text_encoder", "vae")
            digest.update(f"{self.dtype}|{self._encoding()}".encode())
            self._encoders_fingerprint = digest.hexdigest()
        return self._encoders_fingerprint

    def _encoding(self) -> str:
        """What turns pictures and captions into the network's inputs, besides weights."""
        tokenizer = getattr(self.pipe, "tokenizer", None)
        words = [] if tokenizer is None else [tokenizer.model_max_length, tokenizer.get_vocab()]
        vae = {} if self._vae is None else self._vae.config
        scale = [vae.get("scaling_factor"), vae.get("shift_factor")]
        return json.dumps([self.image_size, self.latent_shape, scale, words], sort_keys=True)

    def _weights_digest(self, *parts: str):
        digest = hashlib.sha256()
        for name in parts:
            module = getattr(self.pipe, name, None)
            for key, tensor in module.state_dict().items() if module is not None else ():
                digest.update(f"{name}.{key}{tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy())
        return digest


def _require_supported(pipe: Any) -> None:
    """Refuse what would fail later, or worse, give numbers that mean nothing.

    Raises:
        ModelError: names what is not supported.
    """
    network, vae = getattr(pipe, "unet", None), getattr(pipe, "vae", None)
    name = type(pipe).__name__
    if type(network).__name__ not in _FAMILIES or hasattr(pipe, "text_encoder_2"):
        raise ModelError(
            f"{name} is not supported: headwater takes pipelines whose `unet` "
            f"is a {' or a '.join(_FAMILIES)} with at most one text encoder"
        )
    config: Any = network.config  # pyright: ignore[reportOptionalMemberAccess]
    latents = config.in_channels if vae is None else vae.config.latent_channels
    if config.in_channels != latents or hasattr(pipe, "vqvae"):
        raise ModelError(
            f"{name} is not supported: its network reads more than the noisy latents "
            "(inpainting, depth, editing), or its latents are not those of an AutoencoderKL"
        )
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise ModelError(f"{name} is not supported: its network wants a class label")
    if not hasattr(pipe.scheduler, "alphas_cumprod"):
        raise ModelError(
            f"{type(pipe.scheduler).__name__} has no alphas_cumprod: give the pipeline a "
            "scheduler of the DDPM family, for instance DDIMScheduler"
        )


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
