"""Layers of CLIP that prompts are not read from, as trainers count and as diffusers does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor

from headwater.errors import ModelError
from headwater.models.families.family import Reading
from headwater.models.families.words import text_encoders
from headwater.models.patches import swapped_forward


def layers_skipped(pipe: Any, reading: Reading, usual: int) -> int:
    """How many layers before the usual one prompts are read: diffusers' `clip_skip`.

    kohya's trainer and A1111 name the layer itself: 1 is the last, and of Stable Diffusion XL 2 is
    the one that it was trained with.

    Args:
        usual: the layer that is read where nothing is said.

    Raises:
        ModelError: the pipeline reads no layer by its number, or has none of this.
    """
    layer = reading.clip_skip
    if layer is None:
        return 0
    encoders: list[Any] = list(text_encoders(pipe).values())
    of_clip = [encoder for encoder in encoders if type(encoder).__name__.startswith("CLIPText")]
    reads = signature(pipe.encode_prompt).parameters if encoders else {}
    if of_clip != encoders or "clip_skip" not in reads:
        raise reading.refused(pipe, "clip_skip")
    counts = [encoder.config.num_hidden_layers for encoder in encoders]
    if not usual <= layer <= min(counts):
        raise ModelError(
            f"--clip-skip {layer}: {type(pipe).__name__} takes {usual}, as it is read anyway, up "
            f"to {min(counts)}"
        )
    return layer - usual


@contextmanager
def read_early(encoder: Any, skipped: int) -> Iterator[None]:
    """Inside, a text encoder's words are those of an earlier layer, under the last one's norm.

    As `encode_prompt(clip_skip=...)` of Stable Diffusion has it, which looks for the norm where
    transformers had it before version 5.
    """
    if not skipped:
        yield
        return
    norm = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))

    def forward(ids: Tensor, **given: Any) -> tuple[Tensor]:
        out = type(encoder).forward(encoder, ids, **given, output_hidden_states=True)
        return (norm(out.hidden_states[-1 - skipped]),)

    with swapped_forward(encoder, forward):
        yield
