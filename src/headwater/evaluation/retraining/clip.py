"""A small CLIP for data that no ready one fits.

    python -m headwater.evaluation.retraining.clip scenes OUT

Two towers, one for pictures and one for captions, are trained so that each picture of a batch is
nearest to its own caption and each caption to its own picture (Radford et al. 2021):

    loss = (CE(s u v^T, i) + CE(s v u^T, i)) / 2      u, v unit embeddings, s a learned scale

The folder it leaves is what `headwater.models.clip.Clip` loads. Captions of one batch that say the
same count as mistakes for each other, as usual: the loss does not go to zero.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from headwater.data.sources import load_dataset
from headwater.data.training_set import TrainingSet
from headwater.evaluation.retraining.trainer import FitOptions, fit
from headwater.models.clip import Clip
from headwater.scenes.dataset import describe, pictures
from headwater.scenes.vocabulary import ATTRIBUTES
from headwater.storage.files import remove_abandoned, write_text

SIZE = 64  # of the pictures that it sees
STEPS = 1_500
BATCH = 64
LEARNING_RATE = 1e-3
MAX_TOKENS = 77  # as every CLIP
# How far pictures are moved at random: radians, share of their size, share of half their width.
TURN, SCALE, SHIFT = 0.1, 0.1, 0.1
MEAN = STD = 0.5

VISION = {
    "image_size": SIZE,
    "patch_size": 16,  # of 8 a step takes three times as long, and more than that was lost
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
}


@dataclass(frozen=True)
class Towers:
    """How large a CLIP is.

    Attributes:
        dim: of the embeddings both towers end in.
        vision, text: what differs from `VISION` and `TEXT`, by the names of `CLIPVisionConfig` and
            `CLIPTextConfig`.
    """

    dim: int = 64
    vision: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)

    def config(self, tokenizer: Any) -> CLIPConfig:
        """As transformers takes it, for the tokens of this tokenizer."""
        special = {
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        return CLIPConfig(
            text_config={**TEXT, **self.text, **special, "projection_dim": self.dim},
            vision_config={**VISION, **self.vision, "projection_dim": self.dim},
            projection_dim=self.dim,
        )


OPTIONS, TOWERS = FitOptions(STEPS, LEARNING_RATE), Towers()


def train_clip(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    out: str | Path,
    *,
    options: FitOptions = OPTIONS,
    batch: int = BATCH,
    towers: Towers = TOWERS,
) -> float:
    """Train a CLIP on pictures and their captions, and save it in the folder `out`.

    A call that was stopped goes on from its last checkpoint. Returns the mean loss of the last
    hundred steps; chance is log(batch).

    Args:
        options: their seed is that of the first weights, too.
    """
    if len(images) != len(captions) or not images:
        raise ValueError(f"{len(images)} images and {len(captions)} captions: give one for each")
    out = Path(out)
    tokenizer = make_tokenizer(captions)
    model: Any = _new_model(towers.config(tokenizer), options.seed)
    pixels = stack_pixels(images, model.config.vision_config.image_size)
    tokens = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(pixels), (min(batch, len(pixels)),), generator=generator)
        return rows, move_at_random(pixels[rows], generator)

    def loss(rows: Tensor, moved: Tensor) -> Tensor:
        output = model(tokens.input_ids[rows], moved, tokens.attention_mask[rows])
        return contrastive_loss(output.logits_per_image)

    checkpoint = out / "clip.training"
    last = fit(model, draw, loss, checkpoint, options)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    statistics = {"image_mean": [MEAN] * 3, "image_std": [STD] * 3}
    write_text(out / "preprocessor_config.json", json.dumps(statistics))
    checkpoint.unlink(missing_ok=True)
    remove_abandoned(out)
    return last


def contrastive_loss(logits: Float[Tensor, "b b"]) -> Float[Tensor, ""]:
    """Each picture must choose its caption among the batch's, and each caption its picture."""
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def make_tokenizer(captions: Sequence[str], max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """A CLIP tokenizer in which each word of these captions is one token.

    Other words still work: they fall apart into single bytes.
    """
    text = unicodedata.normalize("NFC", " ".join(captions).lower())
    words = sorted(set(re.findall(r"[^\W\d_]+", text)))
    letters = sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary: dict[str, Any] = dict(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer = CLIPTokenizer(**vocabulary, model_max_length=max_tokens)
    # Added as they are: merges that a trainer finds differ from run to run.
    added: list[Any] = [AddedToken(word, single_word=True, normalized=True) for word in words]
    tokenizer.add_tokens(added)
    return tokenizer


def _new_model(config: CLIPConfig, seed: int) -> CLIPModel:
    """A CLIP with random weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(config)


def stack_pixels(images: Sequence[Image.Image], size: int) -> Float[Tensor, "n 3 h w"]:
    """Pictures cut to a square of this size, as numbers around 0."""
    fitted = [np.asarray(ImageOps.fit(image.convert("RGB"), (size, size))) for image in images]
    pixels = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2).float() / 255
    return ((pixels - MEAN) / STD).contiguous()


def move_at_random(pixels: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Tensor:
    """Each picture turned, scaled and shifted a little, differently; edges are repeated.

    Without it two thousand pictures are learned by heart.
    """
    angle, scale, *shift = ((2 * torch.rand(4, len(pixels), generator=generator)) - 1).unbind()
    angle, scale = angle * TURN, 1 + scale * SCALE
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [cos, -sin, shift[0] * SHIFT, sin, cos, shift[1] * SHIFT]
    grid = F.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), list(pixels.shape), False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


# --- the scenes -----------------------------------------------------------------------------------


def zero_shot(clip: Clip, split: str = "validation") -> dict[str, float]:
    """Share of a split's scenes whose attribute the nearest of its bare captions names."""
    shown = pictures(split)
    embedded = F.normalize(torch.cat([clip.images([picture.draw()]) for picture in shown]), dim=1)
    accuracy = {}
    for attribute, values in ATTRIBUTES.items():
        texts = clip.texts([describe(**{attribute: value}) for value in values])
        nearest = (embedded @ F.normalize(texts, dim=1).T).argmax(1).tolist()
        truth = [values.index(picture.scene.attributes[attribute]) for picture in shown]
        accuracy[attribute] = float(np.mean(np.array(nearest) == truth))
    return accuracy


def scene_captions() -> tuple[list[Image.Image], list[str]]:
    """Pictures and captions of all scenes that no test is made of.

    The 2,000 of `train` alone are learned by heart.
    """
    shown = pictures("train") + pictures("autoencoder")
    bar = tqdm(shown, desc="drawing", unit="picture", delay=2, leave=False)
    return [picture.draw() for picture in bar], [picture.caption for picture in shown]


def data_captions(data: TrainingSet) -> tuple[list[Image.Image], list[str]]:
    """Pictures and captions of a data set."""
    return [data.image(row) for row in range(len(data))], [s.caption for s in data.samples]


def main() -> None:
    """Train a CLIP on a data set with captions; on the scenes, say how good it is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", help="`scenes`, or what `headwater index` takes")
    parser.add_argument("out", type=Path, help="folder that the CLIP is saved in")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    start = time.perf_counter()
    pairs = scene_captions() if given.data == "scenes" else data_captions(load_dataset(given.data))
    options = FitOptions(given.steps, LEARNING_RATE, given.seed)
    loss = train_clip(*pairs, given.out, options=options)
    print(f"loss {loss:.3f} after {given.steps} steps, {time.perf_counter() - start:.0f} s")
    if given.data == "scenes":
        for attribute, share in zero_shot(Clip(given.out)).items():
            print(f"{attribute:<12}{share:.3f}  (chance {1 / len(ATTRIBUTES[attribute]):.3f})")


if __name__ == "__main__":
    main()
