"""A query's feature rows: one for each draw, computed once and kept in the index by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater.errors import NonFiniteError
from headwater.features.extractor import Extractor
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import seeded_noise
from headwater.queries.query import Drawer
from headwater.runtime.batch_size import BatchSize
from headwater.storage.files import keep, read_tensors

# Why a question may have no gradient, by the type in its drawer's key; any, for lack of layers.
_NOTHING = {
    "concept": "c+ and c- may look alike to the model, ask for other words",
    "part": "the prompt may say nothing to the model, give the one that made the picture",
    "local": "the token may have learned nothing, ask with another picture or mask",
    "reward": "leave out what is flat in pictures from 0 to 1 (thresholds, rounding, clipping)",
    "preference": "winners and losers may look alike to the model, give other pairs",
}
_NO_LAYERS = "the index's layers may have no say in it, build one with other --parameters"


def trajectory_noise(
    denoiser: Denoiser, seed: int, draws: Sequence[int]
) -> Float[Tensor, "b c h w"]:
    """Where the trajectories of these draws begin."""
    noise = [seeded_noise(denoiser.latent_shape, seed, "trajectory", draw) for draw in draws]
    return torch.stack(noise).to(denoiser.device, denoiser.latent_dtype)


def _condition(denoiser: Denoiser, prompts: Sequence[str]) -> Tensor:
    encoded = denoiser.encode_captions(prompts)
    assert encoded is not None, "a model that reads no prompts is refused before"
    return encoded


def draw_rows(
    machine: Extractor, drawer: Drawer, draws: range, folder: Path, identity: str, fresh: bool
) -> tuple[Float[Tensor, "d k"], bool]:
    """One feature row for each draw, and whether they were there already.

    Args:
        folder: where rows are kept.
        identity: of the index: rows of another model or recipe are not these.

    Raises:
        NonFiniteError: the query's gradient is NaN or zero.
    """
    asked = drawer.key(draws)
    spec = json.dumps({**asked, "draws": [draws.start, draws.stop]})
    key = hashlib.sha256(f"{identity}\n{spec}".encode()).hexdigest()[:32]
    path = folder / f"{key}.safetensors"
    kept = None if fresh else read_tensors(path)
    if kept is not None:
        return kept["draws"], True
    rows = _computed(machine, drawer, draws)
    if not rows.isfinite().all():
        raise NonFiniteError(
            f"{drawer.title!r} gave a NaN or infinite gradient: compute in float32 if the model "
            "ran in half precision"
        )
    if not rows.any():
        why = _NOTHING.get(str(asked.get("type")), _NO_LAYERS)
        raise NonFiniteError(f"{drawer.title!r} gave an all-zero gradient: {why}")
    keep(path, {"draws": rows}, {"title": drawer.title})
    return rows, False


def _computed(machine: Extractor, drawer: Drawer, draws: range) -> Float[Tensor, "d k"]:
    probes = drawer.probes(machine)
    total = len(draws) * probes
    with tqdm(total=total, desc=drawer.title, unit="probe", delay=2, leave=False) as bar:

        def compute(part: Sequence[int]) -> Tensor:
            # Back from a trial of the batch size, or a batch that memory did not hold.
            bar.update((part[0] - draws.start) * probes - bar.n)
            return machine.query_rows(drawer.asked(machine, part), bar.update).float().cpu()

        batch = BatchSize(None, device=machine.denoiser.device)
        return torch.cat(list(batch.over(draws, compute)))
