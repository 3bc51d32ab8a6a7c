"""A query's feature rows: one for each draw, computed once and kept by content."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import NonFiniteError
from headwater.features.extractor import Extractor
from headwater.features.spec import DRAWS
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.sampling import seeded_noise
from headwater.queries.query import Drawer
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache

Item = TypeVar("Item")
Metric = TypeVar("Metric", bound=Hashable)

# Why a question may have no gradient, by the type in its drawer's key; any, for lack of layers.
_NO_GRADIENT = {
    "concept": "c+ and c- may look alike to the model, ask for other words",
    "part": "the prompt may say nothing to the model, give the one that made the picture",
    "local": "the token may have learned nothing, ask with another picture or mask",
    "reward": "leave out what is flat in pictures from 0 to 1 (thresholds, rounding, clipping)",
    "preference": "winners and losers may look alike to the model, give other pairs",
}
_NO_LAYERS = "the index's layers may have no say in it, build one with other --parameters"

# Rows are kept up to so many draws, then up to twice as many each time, and beyond those that are
# usual by so many more: a question that is asked with more draws goes on from those that were made.
_KEPT_TO, KEPT_BY = 2, 8


@dataclass(frozen=True)
class DrawnRows:
    """One feature row for each draw.

    Attributes:
        remarks: what the reader of an answer must know, sentence by sentence.
        cached: whether the rows were there already.
    """

    rows: Float[Tensor, "d k"]
    remarks: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True)
class RowCache:
    """Where rows are kept, and of which index: rows of another model or recipe are not these.

    Attributes:
        dim: features in each, where that is known.
    """

    folder: Path
    identity: Any
    fresh: bool = False
    dim: int | None = None


def draw_rows(
    extractor: Callable[[Sequence[Metric]], Extractor],
    drawer: Drawer,
    draws: range,
    kept: Mapping[Metric, RowCache],
    needed: dict[str, int] | None = None,
) -> dict[Metric, DrawnRows]:
    """One feature row for each draw, in each metric that gradients are measured in.

    Args:
        extractor: makes rows in the metrics that it is told, one after the other in each row, in
            one pass; called for those that are not kept yet, and so is the model loaded only then.
        kept: where rows in each metric are looked up and kept; `fresh` computes them again.
        needed: bytes that a draw keeps, by the kind of question; what is found is added.

    Raises:
        NonFiniteError: the query's gradient is NaN or zero.
        MethodError, QueryError: the model cannot be asked this.
    """
    found: dict[tuple[Metric, range], cache.Entry] = {}
    parts, facts = list(_parts(draws)), {}
    for part in parts:
        key = {**drawer.key(part), "draws": [part.start, part.stop]}
        for metric, each in kept.items():
            facts[metric, part] = {"index": each.identity, "question": key}
            sizes = {"draws": (len(part), each.dim)}
            entry = None if each.fresh else cache.read(each.folder, facts[metric, part], sizes)
            if entry is not None and isinstance(entry.note.get("remarks"), list):
                found[metric, part] = entry
    missing = [pair for pair in facts if pair not in found]
    if missing:
        metrics = [metric for metric in kept if any(metric == m for m, _ in missing)]
        machine = extractor(metrics)
        note = {"title": drawer.title, "remarks": list(drawer.check(machine.denoiser))}
        # together, which is faster than one by one
        made = range(min(part.start for _, part in missing), max(p.stop for _, p in missing))
        several: list[Tensor] = []
        for batch in _computed(machine, drawer, made, {} if needed is None else needed):
            several.append(batch)
            rows = torch.cat(several).chunk(len(metrics), 1)
            last = made.start + len(rows[0]) == made.stop
            if not last and not all(own.any() for own in rows):
                continue  # whether it has a gradient is not known yet
            for own in rows:
                _require_gradient(own, drawer.title, str(drawer.key(draws).get("type")))
            # at once, so that what is stopped goes on from it
            for metric, part in [each for each in missing if each not in found]:
                if part.stop - made.start <= len(rows[0]):
                    own = rows[metrics.index(metric)][part.start - made.start :][: len(part)]
                    place, of = kept[metric].folder, facts[metric, part]
                    found[metric, part] = cache.write(place, of, {"draws": own}, note)
    return {metric: _drawn([found[metric, part] for part in parts]) for metric in kept}


def _parts(draws: range) -> Iterator[range]:
    """The draws in the parts that are kept.

    >>> list(_parts(range(42)))[3:]
    [range(8, 16), range(16, 32), range(32, 40), range(40, 42)]
    """
    start, stop = draws.start, _KEPT_TO
    while start < draws.stop:
        if start < stop:
            yield range(start, min(stop, draws.stop))
            start = stop
        stop += stop if stop < DRAWS else KEPT_BY


def _drawn(entries: Sequence[cache.Entry]) -> DrawnRows:
    remarks = dict.fromkeys(remark for entry in entries for remark in entry.note["remarks"])
    rows = torch.cat([entry.tensors["draws"] for entry in entries])
    return DrawnRows(rows, tuple(remarks), all(entry.cached for entry in entries))


def _computed(
    extractor: Extractor, drawer: Drawer, draws: range, needed: dict[str, int]
) -> Iterator[Float[Tensor, "b k"]]:
    probes = drawer.probes(extractor)
    title = f"gradients of {drawer.title}"
    with ProgressBar(total=len(draws), desc=title, unit="draw") as bar:

        def compute(part: Sequence[int]) -> Tensor:
            before, rows = part[0] - draws.start, 0

            def tick(count: int) -> None:
                nonlocal rows
                rows += count
                bar.update(before + rows // probes - bar.done)

            tick(0)  # back from a batch that memory did not hold
            return extractor.query_rows(drawer.objectives(extractor, part), tick).float().cpu()

        def trial() -> None:  # probes come one after the other, at most two of them at a time
            extractor.query_rows(islice(drawer.objectives(extractor, draws[:1]), 2))

        kind = _alike(drawer.key(draws))
        batch = BatchSize(None, device=extractor.denoiser.device, needed=needed.get(kind))
        for rows in batch.over(draws, compute, trial):
            if kind and batch.needed is not None:
                needed[kind] = batch.needed
            yield rows


def _alike(key: Mapping[str, Any]) -> str:
    """A name for questions whose draws take the same memory; "" where others may take more.

    That of a reward is its function's, that of a picture depends on its prompt.
    """
    if key.get("type") not in ("concept", "contribution", "loss"):
        return ""
    return " ".join(str(key.get(name)) for name in ("type", "delta", "base"))


def _require_gradient(rows: Float[Tensor, "d k"], title: str, kind: str) -> None:
    if not rows.isfinite().all():
        raise NonFiniteError(
            f"{title!r} gave a NaN or infinite gradient: compute in float32 if the model ran in "
            "half precision"
        )
    if not rows.any():
        why = _NO_GRADIENT.get(kind, _NO_LAYERS)
        raise NonFiniteError(f"{title!r} gave an all-zero gradient: {why}")


# --- what drawers share ---------------------------------------------------------------------------


def trajectory_noise(
    denoiser: Denoiser, seed: int, draws: Sequence[int]
) -> Float[Tensor, "b c *f h w"]:
    """Where the trajectories of these draws begin."""
    noise = [seeded_noise(denoiser.latent_shape, seed, "trajectory", draw) for draw in draws]
    return torch.stack(noise).to(denoiser.device, denoiser.latent_dtype)


def encode_prompts(denoiser: Denoiser, prompts: Sequence[str]) -> Condition:
    """Conditions of prompts, for a model that reads them."""
    encoded = denoiser.encode_captions(prompts)
    assert encoded is not None, "a model that reads no prompts is refused before"
    return encoded


def without_repeats(pool: Sequence[Item], count: int, chance: random.Random) -> list[Item]:
    """`count` items of the pool in random order: all of them before any comes twice."""
    drawn: list[Item] = []
    while len(drawn) < count:
        drawn += chance.sample(pool, len(pool))
    return drawn[:count]
