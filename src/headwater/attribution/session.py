"""An index that is asked: what answers need in memory, made once."""

from __future__ import annotations

import hashlib

from headwater.attribution.kernel import Spectrum, spectrum
from headwater.index.index import Index
from headwater.storage.files import keep, read_tensors


def spectrum_of(index: Index) -> Spectrum:
    """The kernel's eigendecomposition, computed once for these shards and kept."""
    shards = "\n".join(shard.checksum for shard in index.manifest.shards)
    key = hashlib.sha256(shards.encode()).hexdigest()[:32]
    path = index.path / "kernels" / f"{key}.safetensors"
    kept = read_tensors(path)
    rows, dim = len(index), index.recipe.dim
    if kept is not None:
        return Spectrum(kept["values"], kept["vectors"], dual=rows < dim)
    computed = spectrum(index.blocks, rows, dim)
    keep(path, {"values": computed.values, "vectors": computed.vectors}, {})
    return computed
