"""What single files of the most common models do not say, bundled so that no hub is needed.

Configurations as they were published with Stable Diffusion 1.5 and XL, and the merges of CLIP's
tokenizer (OpenAI, MIT licence), of which its vocabulary is made. No weights.
"""

from __future__ import annotations

import atexit
import gzip
import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

_FILES = Path(__file__).parent / "descriptions"
# A layer that a file of the model has, and how wide the words are that it reads; the name that the
# model has on the hub; its tokenizers, and what these pad with.
_KEYS_OF_WORDS = "model.diffusion_model.input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
_BUNDLED = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        "stable-diffusion-1.5.json", (_KEYS_OF_WORDS.format(1), 768),
        {"tokenizer": "<|endoftext|>"},
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": (
        "stable-diffusion-xl.json", (_KEYS_OF_WORDS.format(4), 2048),
        {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"},
    ),
}  # fmt: skip
# Tensors of a file that say that it was trained to predict something else.
_OTHERS = ("v_pred", "edm_mean", "edm_vpred.sigma_max")


def bundled(name: str, tensors: Mapping[str, Any]) -> Path | None:
    """A folder as `save_pretrained` writes it, but without weights; None for what is not bundled.

    Args:
        name: of a model on the hub.
        tensors: of the file that is to be read by it, which may be of another model after all.
    """
    if name not in _BUNDLED or any(other in tensors for other in _OTHERS):
        return None
    _, (layer, width), _ = _BUNDLED[name]
    fits = layer in tensors and tensors[layer].shape[1] == width
    return _written(name) if fits else None


@cache
def _written(name: str) -> Path:
    """The folder, for as long as this process lives."""
    folder = Path(mkdtemp(prefix="headwater-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file, _, tokenizers = _BUNDLED[name]
    for path, content in json.loads((_FILES / file).read_text("utf-8")).items():
        _write(folder / path, json.dumps(content))
    merges = gzip.decompress((_FILES / "clip_merges.txt.gz").read_bytes()).decode()
    for part, padding in tokenizers.items():
        _write(folder / part / "merges.txt", merges)
        _write(folder / part / "vocab.json", json.dumps(_vocabulary(merges)))
        _write(folder / part / "tokenizer_config.json", json.dumps(_tokenizer(padding)))
    return folder


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _vocabulary(merges: str) -> dict[str, int]:
    """Characters for the 256 bytes, the same at the end of a word, what merges make, two marks."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("\xa1"), ord("\xac") + 1)]
    shown += range(ord("\xae"), ord("\xff") + 1)
    hidden = range(256, 256 + 256 - len(shown))  # characters for bytes that are none
    characters = [chr(code) for code in (*shown, *hidden)]
    made = ["".join(line.split()) for line in merges.splitlines()[1:]]
    ends = [f"{character}</w>" for character in characters]
    tokens = [*characters, *ends, *made, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def _tokenizer(padding: str) -> dict[str, Any]:
    return {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": padding,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": 77,
    }
