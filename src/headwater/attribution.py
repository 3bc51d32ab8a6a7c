"""Query + index -> attribution: the query's gradient, the kernel, the scores."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from headwater import kernel, queries
from headwater.batching import BatchSize
from headwater.errors import (
    HeadwaterWarning,
    MethodError,
    NonFiniteError,
    QueryError,
    ResourceError,
    StoreError,
)
from headwater.files import read_tensors, write_tensors
from headwater.methods import method_named
from headwater.probes import seeded_noise
from headwater.queries import Concept, Contexts
from headwater.recipe import extractor

if TYPE_CHECKING:
    from headwater.index import Index

DAMPING = 0.1


@dataclass(frozen=True)
class Ranked:
    """One training image in an answer. `row` is its row in the index."""

    rank: int
    id: str
    score: float
    caption: str
    uri: str
    row: int


@dataclass(frozen=True)
class Attribution:
    """The answer to one query: a score for every training image, in index order.

    A positive score is a proponent: training on that image moves the model towards the concept.
    Scores compare within one answer only.
    """

    query: Concept
    contexts: Contexts
    method: str
    scores: Float[np.ndarray, " n"]
    index: Index
    provenance: dict[str, Any]

    def top(self, count: int = 10) -> list[Ranked]:
        """The strongest proponents, best first."""
        return self._ranked(np.argsort(-self.scores, kind="stable")[:count])

    def bottom(self, count: int = 10) -> list[Ranked]:
        """The strongest opponents, lowest score first. Ranks count from the bottom."""
        return self._ranked(np.argsort(self.scores, kind="stable")[:count])

    def _ranked(self, rows: Sequence[int] | np.ndarray) -> list[Ranked]:
        samples = self.index.samples
        return [
            Ranked(rank, s.id, float(self.scores[row]), s.caption, s.uri, int(row))
            for rank, (row, s) in enumerate(((row, samples[row]) for row in rows), 1)
        ]


def attribute(
    index: Index,
    query: Concept,
    *,
    damping: float = DAMPING,
    fresh: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> Attribution:
    """Score every training image of `index` for `query`.

    The query's gradient is kept in the index by content and used again, unless `fresh`.

    Args:
        damping: lambda as a multiple of the kernel's mean eigenvalue.

    Raises:
        MethodError: the index's method cannot take the query, or the model reads no prompts.
        MismatchError: the model has changed since the index was built.
    """
    start = time.perf_counter()
    if not 0 <= damping < float("inf"):
        raise QueryError(f"--damping {damping} must be a number from 0 up")
    method = method_named(index.recipe.method)
    if not index.denoiser.conditional:
        raise MethodError(
            f"{index.denoiser.source} reads no prompts, so it cannot be asked for a concept"
        )
    chosen = queries.contexts(query, [sample.caption for sample in index.samples])
    draws, reused = _query_rows(index, query, chosen, fresh)
    if reused:
        note(f"{query.concept}: using the query gradient computed before (--fresh recomputes)")
    psi = draws.mean(0, keepdim=True)
    scores = kernel.trak_scores(index.blocks, _spectrum(index), psi, damping)[0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"{query.concept!r} scored NaN or infinite: raise --damping")
    provenance = {
        "model": dict(index.manifest.model),
        "data": dict(index.manifest.data),
        "recipe": dict(index.manifest.recipe),
        "index_versions": dict(index.manifest.versions),
        "query": {
            "base": query.base or "c+",
            "context": chosen.kind,
            "contexts": [list(pair) for pair in dict.fromkeys(chosen.pairs)],
            "draws": query.draws,
            "seed": query.seed,
        },
        "rule": method.rule,
        "damping": damping,
        "reused_query_gradient": reused,
        "seconds": round(time.perf_counter() - start, 2),
    }
    return Attribution(query, chosen, method.name, scores, index, provenance)


# --- the two things that are kept in the index: query rows and the kernel -------------------------


def _query_rows(
    index: Index, query: Concept, chosen: Contexts, fresh: bool
) -> tuple[Float[Tensor, "draws k"], bool]:
    """One feature row for each trajectory, and whether they were there already."""
    key = _content_key(
        index.manifest.model["fingerprint"],
        json.dumps(dict(index.manifest.recipe), sort_keys=True),
        queries.spec(query, chosen),
    )
    path = index.path / "queries" / f"{key}.safetensors"
    kept = None if fresh else read_tensors(path)
    if kept is not None:
        return kept["draws"], True
    rows = _concept_rows(index, query, chosen)
    _keep(path, {"draws": rows}, {"concept": query.concept, "prompt": query.prompt})
    return rows, False


def _concept_rows(index: Index, query: Concept, chosen: Contexts) -> Float[Tensor, "draws k"]:
    denoiser = index.denoiser
    machine = extractor(denoiser, index.recipe)
    denoiser.warn_of_lost_words([prompt for pair in dict.fromkeys(chosen.pairs) for prompt in pair])

    def condition(prompts: Sequence[str]) -> Tensor:
        encoded = denoiser.encode_captions(prompts)
        assert encoded is not None  # a conditional model, as `attribute` has checked
        return encoded

    def compute(part: Sequence[int]) -> Tensor:
        noise = torch.stack([
            seeded_noise(denoiser.latent_shape, query.seed, "trajectory", draw) for draw in part
        ])  # fmt: skip
        plus = condition([chosen.pairs[draw][0] for draw in part])
        minus = condition([chosen.pairs[draw][1] for draw in part])
        base = None if query.base is None else condition([query.base] * len(part))
        noise = noise.to(denoiser.device, denoiser.dtype)
        return machine.concept_rows(noise, plus, minus, base, bar.update).cpu()

    probes = query.draws * len(index.recipe.timesteps)
    with tqdm(total=probes, desc=query.concept, unit="probe", delay=2, leave=False) as bar:
        rows = torch.cat(list(BatchSize(None).over(range(query.draws), compute)))
    if not rows.isfinite().all() or not rows.any():
        raise NonFiniteError(
            f"{query.concept!r} gave a NaN or all-zero gradient: c+ and c- look alike to this model"
        )
    return rows


def _spectrum(index: Index) -> kernel.Spectrum:
    """The kernel's eigendecomposition, computed once for these shards and kept."""
    key = _content_key(*(shard.sha256 for shard in index.manifest.shards))
    path = index.path / "kernels" / f"{key}.safetensors"
    kept = read_tensors(path)
    rows, dim = len(index), index.recipe.dim
    if kept is not None:
        return kernel.Spectrum(kept["values"], kept["vectors"], dual=rows < dim)
    computed = kernel.spectrum(index.blocks, rows, dim)
    _keep(path, {"values": computed.values, "vectors": computed.vectors}, {})
    return computed


def _content_key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _keep(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Keep for the next time; an index that cannot be written to still answers."""
    try:
        write_tensors(path, tensors, metadata)
    except (StoreError, ResourceError) as error:
        warnings.warn(f"not kept for the next time: {error}", HeadwaterWarning, stacklevel=2)
