"""Features that are no gradients: the picture itself, and CLIP's embedding of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from headwater.models.families.words import tokenizer_facts
from headwater.models.fingerprint import Digest
from headwater.models.loading.hub import from_hub
from headwater.models.loading.pipelines import model_errors
from headwater.models.loading.weights import Unreadable, load_whole

# What CLIP was trained with, for folders that do not say (openai/CLIP, clip.py).
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_MEND = "give a folder saved with `save_pretrained`"


class Clip:
    """A CLIP model from a local folder or a hub name.

    Raises:
        ModelError: there is none, or it cannot be read.
    """

    def __init__(self, source: str | Path, device: torch.device | str = "cpu") -> None:
        path = Path(source)
        self.source = str(path.resolve()) if path.exists() else str(source)
        self.device = torch.device(device)
        with model_errors(f"the CLIP model {self.source!r}", _MEND):
            folder, model, self._tokenizer = _loaded(self.source)
        self._model = model.to(self.device).eval().requires_grad_(False)
        self.dim: int = model.config.projection_dim
        self._size: int = model.config.vision_config.image_size
        self._mean, self._std = _statistics(folder)

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
        """What cosines are multiplied by before a softmax; one over the learned temperature."""
        return self._model.logit_scale.exp()

    def fingerprint(self) -> str:
        """sha256 over the model, and over how pictures and words are brought to it."""
        digest = Digest()
        digest.add("pixels", [self._size, self._mean, self._std])
        digest.add("tokenizer", tokenizer_facts(self._tokenizer))
        digest.add_module("clip", self._model)
        return digest.hex()


def _loaded(source: str) -> tuple[Path, Any, Any]:
    """The folder on this machine, the model and its tokenizer.

    Raises:
        Unreadable: there is none, or its weights are not all there.
    """
    from transformers import CLIPModel, CLIPTokenizer

    folder = from_hub(source, "*.safetensors", "*.json", "*.txt")
    if not (folder / "config.json").is_file():
        raise Unreadable("it has no config.json: give a folder saved with `save_pretrained`")
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "clip":
        raise Unreadable(f"it is of the type {kind!r}: give a CLIPModel")
    return folder, load_whole(CLIPModel, folder), CLIPTokenizer.from_pretrained(folder)


def _statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the pixels that the model was trained with."""
    try:
        text = (folder / "preprocessor_config.json").read_text(encoding="utf-8")
        settings = json.loads(text)
        return tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (OSError, ValueError, KeyError, TypeError):
        return _MEAN, _STD
