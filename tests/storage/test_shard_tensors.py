"""A shard of a stranger, whose checksums are right and whose tensors are not."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from headwater.errors import StoreError
from headwater.storage import files
from headwater.storage.blocks import Part, read_blocks, read_positions, read_residuals, read_rows
from headwater.storage.manifest import Manifest, Shard, read_manifest, write_manifest
from headwater.storage.shard_tensors import wrong_with
from headwater.storage.shards import ShardRows, finished_shards, read_shard, write_shard

DIM, AT_ONCE = 4, 5
RECIPE = dict.fromkeys(
    ["method", "train_path", "train_delta", "normalise", "parameters", "layers", "timesteps",
     "draws", "clip", "seed", "projection", "inversion_guidance", "features_version"], ""
)  # fmt: skip
MODEL = {"source": "", "dtype": "float32", "fingerprint": ""}
FEATURES = torch.randn(2 * AT_ONCE, DIM, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Ten rows in two shards; each test writes the second as it likes."""
    at = tmp_path_factory.mktemp("lies") / "index"
    data = {"source": "", "options": {}, "fingerprint": "", "rows": 2 * AT_ONCE}
    begun = Manifest({**RECIPE, "dim": DIM}, MODEL, data, {}, AT_ONCE)
    shards = []
    for number in range(2):
        own = range(AT_ONCE * number, AT_ONCE * (number + 1))
        rows = FEATURES[own.start : own.stop]
        held = ShardRows(rows, own, residuals=rows[:, :2].abs())
        shards.append(write_shard(at, begun, number, held))
    write_manifest(at, replace(begun, shards=tuple(shards), complete=True))
    return at


def lied(folder: Path, tensors: dict[str, Tensor]) -> Manifest:
    """The index with other tensors in its second shard, and all checksums right."""
    manifest = read_manifest(folder)
    shard, path = manifest.shards[1], folder / manifest.shards[1].file
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    size, checksum = path.stat().st_size, files.checksum_of(path)
    shard = replace(shard, bytes=size, checksum=checksum)
    return replace(manifest, shards=(manifest.shards[0], shard))


def second(folder: Path) -> dict[str, Tensor]:
    """What the second shard holds, as it was written."""
    first = load_file(folder / "features/00000.safetensors")
    rows = ShardRows(FEATURES[AT_ONCE:], range(AT_ONCE, 2 * AT_ONCE))
    return {**first, **rows.tensors(), "residual": FEATURES[AT_ONCE:, :2].abs()}


def read(folder: Path, manifest: Manifest) -> Tensor:
    return torch.cat([block.clone() for block in read_blocks(folder, manifest)])


def with_one(place: tuple[int, ...], value: float) -> Callable[[Tensor], Tensor]:
    def changed(tensor: Tensor) -> Tensor:
        other = tensor.clone()
        other[place] = value
        return other

    return changed


INF, NAN = float("inf"), float("nan")
LIES: dict[str, tuple[str, Callable[[Tensor], Tensor | None], str]] = {
    "a row too few": ("features", lambda rows: rows[1:], r"of \[4, 4\], and not F16 of \[5, 4\]"),
    "a feature too few": ("features", lambda rows: rows[:, 1:], r"F16 of \[5, 3\], and not"),
    "turned": ("features", lambda rows: rows[:4].T.repeat(2, 1)[:5].T, r"F16 of \[4, 5\]"),
    "integers": ("features", lambda rows: rows.long(), "features is I64"),
    "complex": ("features", lambda rows: rows.to(torch.complex64), "features is C64"),
    "float32": ("features", lambda rows: rows.float(), "features is F32"),
    "no features": ("features", lambda rows: None, "it has no features"),
    "NaN": ("features", with_one((3, 1), NAN), "features are not finite"),
    "minus infinite": ("features", with_one((4, 3), -INF), "features are not finite"),
    "one scale for all": ("scale", lambda scale: scale[:1], r"scale is F32 of \[1\]"),
    "a scale for each feature": ("scale", lambda scale: scale[:4], r"scale is F32 of \[4\]"),
    "a column of scales": ("scale", lambda scale: scale[:, None], r"scale is F32 of \[5, 1\]"),
    "NaN scale": ("scale", with_one((2,), NAN), "scale is not positive and finite"),
    "negative scale": ("scale", with_one((2,), -1.0), "scale is not positive and finite"),
    "rows beyond float32": ("scale", with_one((2,), 3e38), "times their scale are not finite"),
    "no scale": ("scale", lambda scale: None, "it has no scale"),
    "positions of others": ("position", lambda rows: rows - 1, "does not ascend within 5 to 9"),
    "a position twice": ("position", with_one((1,), 5), "does not ascend within 5 to 9"),
    "positions of float": ("position", lambda rows: rows.double(), "position is F64"),
    "no positions": ("position", lambda rows: None, "it has no position"),
    "a residual too few": ("residual", lambda rows: rows[1:], r"residual is F32 of \[4, 2\]"),
    "residuals in a line": ("residual", lambda rows: rows[:, 0], r"not F32 of \[5, any\]"),
    "NaN residual": ("residual", with_one((0, 0), NAN), "residual is not finite"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_shard_that_lies_is_refused_by_name(folder, lie):
    name, change, said = LIES[lie]
    tensors = second(folder)
    changed = change(tensors.pop(name))
    manifest = lied(
        folder, {**tensors, **({} if changed is None else {name: changed.contiguous()})}
    )
    with pytest.raises(
        StoreError, match=rf"00001\.safetensors is no shard.*{said}.*repair"
    ) as caught:
        read(folder, manifest)
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=said):
        read_rows(folder, Part(manifest), [7])
    assert sorted(finished_shards(folder, manifest)) == [0] and read_shard(folder, 1) is None
    columns = {"position": read_positions, "residual": read_residuals}
    if name in columns:
        with pytest.raises(StoreError, match=rf"00001\.safetensors cannot be read \({said}|{said}"):
            columns[name](folder, manifest.shards)


def test_what_is_right_is_looked_at_once(folder, monkeypatch):
    from headwater.storage import blocks

    looked_at = []
    monkeypatch.setattr(
        blocks, "wrong_with", lambda *of: (looked_at.append(of[0].stem), wrong_with(*of))[1]
    )
    manifest, verified = lied(folder, second(folder)), {}
    first = torch.cat(list(read_blocks(folder, manifest, verified)))
    torch.testing.assert_close(first, FEATURES, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.cat(list(read_blocks(folder, manifest, verified))), first)
    assert looked_at == ["00000", "00001"]
    lied(folder, {**second(folder), "features": second(folder)["features"] * 2})
    with pytest.raises(StoreError, match=r"00001\.safetensors is damaged"):
        list(read_blocks(folder, manifest, verified))


@pytest.mark.parametrize("width", [None, 1, 3])
def test_residuals_of_one_shard_alone_do_not_shift(folder, width):
    tensors = second(folder)
    del tensors["residual"]
    if width is not None:
        tensors["residual"] = torch.ones(AT_ONCE, width)
    with pytest.raises(StoreError, match=r"00001\.safetensors has another residual.*--overwrite"):
        read_residuals(folder, lied(folder, tensors).shards)


DTYPES = [torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.complex64]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(["features", "scale", "position", "residual"]),
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.sampled_from([0, 1, DIM, AT_ONCE]), max_size=3),
    value=st.sampled_from([0.0, 1.0, 7.0, -1.0, INF, NAN]),
)
def test_any_tensor_is_refused_or_read_as_it_says(folder, name, dtype, shape, value):
    whole = torch.nan_to_num(torch.tensor(value)) if dtype in DTYPES[3:5] else value
    tensors = {**second(folder), name: torch.full(shape, float(whole)).to(dtype)}
    manifest = lied(folder, tensors)
    try:
        found = read(folder, manifest)
    except StoreError as error:
        assert "\n" not in str(error)
    else:
        assert found.shape == FEATURES.shape and found.isfinite().all()
        assert torch.equal(found[AT_ONCE:], tensors["features"] * tensors["scale"][:, None].float())


def test_rows_of_another_program(tmp_path):
    path = tmp_path / "train_grad-0.npy"
    np.save(path, FEATURES.numpy())
    shard = Shard(path.name, 0, len(FEATURES), (), path.stat().st_size, files.checksum_of(path))
    assert wrong_with(path, shard, DIM) == ""
    assert "holds 10 rows, and not 9" in wrong_with(path, replace(shard, rows=9), DIM)
    np.save(path, with_one((9, 0), NAN)(FEATURES).numpy())
    assert wrong_with(path, shard, DIM) == "its rows are not finite"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"recipe": {**RECIPE, "dim": "4"}}, "dim is 4"),
        ({"recipe": {**RECIPE, "dim": 0}}, "dim is 0"),
        ({"recipe": {**RECIPE, "dim": 10**9}}, "too small for 5 rows of 1000000000"),
    ],
)
def test_rows_that_a_file_cannot_hold(folder, tmp_path, change, said):
    write_manifest(tmp_path, replace(read_manifest(folder), **change))
    with pytest.raises(StoreError, match=said):
        read_manifest(tmp_path)


def test_index_json_has_a_bound(folder, tmp_path, monkeypatch):
    write_manifest(tmp_path, read_manifest(folder))
    size = (tmp_path / "index.json").stat().st_size
    monkeypatch.setattr(files, "LARGEST_JSON", size)
    assert read_manifest(tmp_path).rows == 10
    monkeypatch.setattr(files, "LARGEST_JSON", size - 1)
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
    with pytest.raises(StoreError, match=r"index\.json has .* MiB, and nobody writes more"):
        read_manifest(tmp_path)
