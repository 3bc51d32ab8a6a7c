"""Tokens that textual inversion has learned, from files, into a pipeline's text encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from headwater.models.families.words import text_encoders, tokenizer_of
from headwater.models.loading.weights import Unreadable, require_no_pointers, safetensors_in

# What trainers of SDXL call the vectors of its two encoders: the token is the file's name.
_OF_TWO = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# What A1111 calls the only tensor of its files: likewise.
_NAMELESS = "emb_params"


def add_tokens(pipe: Any, place: Path, token: str = "") -> None:
    """Teach the pipeline the token of a file, or of a folder with one file: a word from then on.

    Files are of diffusers (token -> vectors), or of A1111 and kohya, which name no token. Several
    vectors are one word all the same.

    Args:
        token: another name for it; by default its own, or the file's.

    Raises:
        Unreadable: the pipeline reads no prompts or knows the token already, there is no such
            file, or its vectors are of another text encoder.
    """
    if not hasattr(pipe, "load_textual_inversion"):
        raise Unreadable(f"{type(pipe).__name__} takes no learned tokens: leave --token out")
    file = _one_file(place)
    require_no_pointers(file)
    for name, part, vectors in _learned(pipe, load_file(file), file.stem):
        tokenizer: Any = tokenizer_of(pipe, part)
        if (token or name) in tokenizer.get_vocab():
            raise Unreadable(
                f"the model knows {token or name!r} already: give it another name, as "
                f"--token NAME={file.name}"
            )
        pipe.load_textual_inversion(
            {token or name: vectors}, tokenizer=tokenizer, text_encoder=getattr(pipe, part)
        )


def _learned(pipe: Any, tensors: dict[str, Tensor], stem: str) -> list[tuple[str, str, Tensor]]:
    """(token, the part of the pipeline that reads it, vectors), for each tensor of a file."""
    if set(tensors) == set(_OF_TWO):
        return [(stem, part, tensors[name]) for name, part in _OF_TWO.items()]
    if len(tensors) != 1:
        raise Unreadable(
            f"it holds {len(tensors)} tensors, and a token's file holds one (or clip_l and clip_g)"
        )
    (name, vectors), known = next(iter(tensors.items())), text_encoders(pipe)
    name = stem if name == _NAMELESS else name
    widths = {part: each.get_input_embeddings().embedding_dim for part, each in known.items()}  # pyright: ignore - of transformers' encoders
    fitting = [part for part, width in widths.items() if width == vectors.shape[-1]]
    if not fitting:
        raise Unreadable(
            f"its vectors have {vectors.shape[-1]} numbers, and the model's text encoder(s) take "
            f"{', '.join(map(str, widths.values()))}: it is of another model"
        )
    # of two encoders of one width, each has a file of its own
    unknowing = [part for part in fitting if name not in tokenizer_of(pipe, part).get_vocab()]
    return [(name, (unknowing or fitting)[0], vectors)]


def _one_file(place: Path) -> Path:
    files = safetensors_in(place)
    if len(files) != 1:
        raise Unreadable(f"it holds {len(files)} safetensors files: give one")
    return files[0]
