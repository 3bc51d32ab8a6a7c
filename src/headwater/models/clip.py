"""Features that are no gradients: the picture itself, and CLIP's embedding of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from headwater.errors import ModelError

# What CLIP was trained with, for folders that do not say (openai/CLIP, clip.py).
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Clip:
    """A CLIP model from a local folder or a hub name.

    Raises:
        ModelError: there is none, or it cannot be read.
    """

    def __init__(self, source: str | Path, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPModel, CLIPTokenizer

        path = Path(source)
        self.source = str(path.resolve()) if path.exists() else str(source)
        self.device = torch.device(device)
        try:
            model: Any = CLIPModel.from_pretrained(self.source, use_safetensors=True)
            self._tokenizer = CLIPTokenizer.from_pretrained(self.source)
        except Exception as error:  # transformers raises whatever it meets on its way
            reason = (str(error).strip().splitlines() or [""])[0][:120]
            raise ModelError(
                f"cannot load the CLIP model {self.source!r}: give a folder saved with "
                f"`save_pretrained` ({reason})"
            ) from error
        self._model = model.to(self.device).eval().requires_grad_(False)
        self.dim: int = model.config.projection_dim
        self._size: int = model.config.vision_config.image_size
        self._mean, self._std = _statistics(Path(self.source))

    def images(self, images: Sequence[Image.Image]) -> Float[Tensor, "b k"]:
        """Embeddings of pictures, scaled and centre-cropped to the model's size."""
        fitted = [ImageOps.fit(image.convert("RGB"), (self._size, self._size)) for image in images]
        stack = np.stack([np.asarray(image, np.float32) for image in fitted])
        with torch.no_grad():
            return self.pixels(torch.from_numpy(stack).permute(0, 3, 1, 2) / 255)

    def pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Embeddings of pictures given as numbers from 0 to 1, with their graph."""
        pixels = pixels.to(self.device, torch.float32)
        if pixels.shape[-2:] != (self._size, self._size):
            pixels = torch.nn.functional.interpolate(
                pixels, (self._size, self._size), mode="bicubic", antialias=True
            )
        mean, std = (
            torch.tensor(v, device=self.device)[:, None, None] for v in (self._mean, self._std)
        )
        out = self._model.get_image_features((pixels - mean) / std)
        return getattr(out, "pooler_output", out)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Float[Tensor, "b k"]:
        """Embeddings of texts."""
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.device)
        out = self._model.get_text_features(tokens.input_ids, tokens.attention_mask)
        return getattr(out, "pooler_output", out)

    @property
    def logit_scale(self) -> Float[Tensor, ""]:
        """What it multiplies cosines by: the temperature that it learned."""
        return self._model.logit_scale.exp()

    def fingerprint(self) -> str:
        """sha256 over the weights, and over how pictures and words are brought to them."""
        seen = [self._size, self._mean, self._std, self._tokenizer.get_vocab()]
        digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode())
        for name, tensor in self._model.state_dict().items():
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()


def _statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that the model was trained with."""
    try:
        said = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        return tuple(said["image_mean"]), tuple(said["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return _MEAN, _STD
