"""What an answer was computed from: the same entries give the same scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.attribution.scores import NO_KERNEL
from headwater.index.index import Index
from headwater.methods import Method


def provenance(
    index: Index,
    method: Method,
    query: Mapping[str, Any],
    dampings: Sequence[float],
    candidates: str | None,
) -> dict[str, Any]:
    """Model, data, recipe and question.

    Args:
        query: how it was asked, its draws and its seed.
        dampings: those of the answer and its sweep; null where the rule has no kernel.
        candidates: as given; by CLIP, the model that chose them is named.
    """
    damping = dampings[0] if len(dampings) == 1 else list(dampings)
    chosen_by = {}
    if candidates is not None and candidates.startswith("clip"):
        clip = index.clip()
        chosen_by = {"candidates by": {"source": clip.source, "fingerprint": clip.fingerprint()}}
    return {
        "model": dict(index.manifest.model),
        "checkpoints": [dict(member.manifest.model) for member in index.members()[1:]],
        "data": dict(index.manifest.data),
        "recipe": dict(index.manifest.recipe),
        "index_versions": dict(index.manifest.versions),
        "query": dict(query),
        "rule": method.rule,
        "damping": None if method.rule in NO_KERNEL else damping,
        "candidates": candidates,
        **chosen_by,
    }
