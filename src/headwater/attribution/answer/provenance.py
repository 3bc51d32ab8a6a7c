"""What an answer was computed from: the same entries give the same scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headwater.attribution.resources import Resources
from headwater.attribution.scores import has_damping
from headwater.index.curvature.origin import origin_of
from headwater.methods.row import Method
from headwater.storage.manifest import rows_digest
from headwater.upkeep.remove import removal_facts


def provenance(
    resources: Resources, method: Method, query: Mapping[str, Any], dampings: Sequence[float]
) -> dict[str, Any]:
    """Model, data, recipe, rows and question.

    Args:
        query: how it was asked, its draws and its seed.
        dampings: those of the answer and its sweep; null where the method has none.
    """
    manifest = resources.index.manifest
    damping = dampings[0] if len(dampings) == 1 else list(dampings)
    manifests = [member.index.manifest for member in resources.members]
    checkpoints = [each.model for each in manifests[1:]]
    removed, origin = removal_facts(resources.index), origin_of(manifest)
    fitted = {} if origin is None else {"curvature": origin.line(manifest.data["rows"])}
    return {
        "model": dict(manifest.model),
        "checkpoints": [dict(model) for model in checkpoints],
        "data": dict(manifest.data),
        "recipe": dict(manifest.recipe),
        **fitted,
        "rows": list(map(rows_digest, manifests)),
        **({"removed": removed} if removed else {}),
        "index_versions": dict(manifest.versions),
        "device": resources.device,
        "query": dict(query),
        "rule": method.rule,
        "damping": damping if has_damping(method) else None,
    }
