"""The cache of facts: the same facts are the same file, and what is damaged is computed again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from headwater.errors import HeadwaterWarning, StoreError
from headwater.storage import files
from headwater.storage.cache import Entry, _sha256, key, path_of, read, remember, store

FACTS = {"model": "ab12", "prompt": "a réd cup", "seeds": [1, 2]}


class Computation:
    """Counts how often it is asked."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls = 0
        self.value = value

    def __call__(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        self.calls += 1
        return {"scores": torch.full((2, 3), self.value)}, {"steps": (1, 2), "word": "été \ud83d"}


def test_the_key_is_the_sha256_of_sorted_json() -> None:
    text = '{"model": "ab12", "prompt": "a réd cup", "seeds": [1, 2]}'
    assert key(FACTS) == hashlib.sha256(text.encode()).hexdigest()
    assert key(dict(reversed(FACTS.items()))) == key(FACTS)
    assert key({**FACTS, "seeds": [2, 1]}) != key(FACTS)


def test_half_a_surrogate_pair_has_a_key() -> None:
    assert key({"prompt": "\ud83d"}) != key({"prompt": "\ud83c"})


def test_facts_that_json_cannot_hold_are_refused() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        key({"model": object()})


def test_it_is_computed_once_and_then_read(tmp_path: Path) -> None:
    compute = Computation()
    folder = tmp_path / "a" / "b"
    first, second = remember(folder, FACTS, compute), remember(folder, FACTS, compute)
    assert compute.calls == 1
    assert [path.name for path in folder.iterdir()] == [f"{key(FACTS)[:32]}.safetensors"]
    assert (first.cached, second.cached) == (False, True)
    assert torch.equal(first.tensors["scores"], second.tensors["scores"])
    assert first.note == second.note == {"steps": [1, 2], "word": "été \ud83d"}


def test_other_facts_are_computed(tmp_path: Path) -> None:
    remember(tmp_path, FACTS, Computation(1.0))
    other = remember(tmp_path, {**FACTS, "seeds": []}, Computation(2.0))
    assert not other.cached and other.tensors["scores"].unique().tolist() == [2.0]


def test_fresh_computes_again_and_keeps_that(tmp_path: Path) -> None:
    remember(tmp_path, FACTS, Computation(1.0))
    fresh = remember(tmp_path, FACTS, Computation(2.0), fresh=True)
    assert not fresh.cached
    kept = read(tmp_path, FACTS)
    assert kept is not None and kept.tensors["scores"].unique().tolist() == [2.0]


def test_tensors_without_a_note(tmp_path: Path) -> None:
    remember(tmp_path, [1, "list"], lambda: {"x": torch.arange(3)})
    kept = read(tmp_path, [1, "list"])
    assert kept is not None and kept.note == {} and kept.tensors["x"].tolist() == [0, 1, 2]


def test_the_first_answer_is_as_all_later_ones(tmp_path: Path) -> None:
    """A transposed tensor is read back contiguous, and products with it would round otherwise."""
    entries = [
        remember(tmp_path, FACTS, lambda: {"x": torch.ones(3, 2, requires_grad=True).T})
        for _ in range(2)
    ]
    assert [entry.tensors["x"].is_contiguous() for entry in entries] == [True, True]
    assert [entry.tensors["x"].requires_grad for entry in entries] == [False, False]


def test_nothing_is_kept_of_a_computation_that_fails(tmp_path: Path) -> None:
    def fail() -> dict[str, Tensor]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        remember(tmp_path / "cache", FACTS, fail)
    assert not (tmp_path / "cache").exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_tensor_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _change_the_note(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"[1, 2]", b"[1, 3]"))


def _write_anew_without_checksums(path: Path) -> None:
    save_file(load_file(path), path)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip_a_tensor_byte,
        _change_the_note,
        _write_anew_without_checksums,
        _empty,
    ],
)
def test_a_damaged_file_counts_as_missing_and_is_mended(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    compute = Computation()
    remember(tmp_path, FACTS, compute)
    damage(path_of(tmp_path, FACTS))
    assert read(tmp_path, FACTS) is None
    assert not remember(tmp_path, FACTS, compute).cached
    assert remember(tmp_path, FACTS, compute).cached
    assert compute.calls == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to every folder")
def test_a_folder_that_cannot_be_written_to_costs_a_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.warns(HeadwaterWarning, match="not kept for the next time"):
            entry = remember(tmp_path, FACTS, Computation())
    finally:
        tmp_path.chmod(0o700)
    assert entry.tensors["scores"].shape == (2, 3)


def test_what_another_process_waits_for_costs_an_error(tmp_path: Path) -> None:
    store(tmp_path / "cache", FACTS, {"x": torch.ones(2)}, {"rows": 3})
    found = read(tmp_path / "cache", FACTS)
    assert found is not None and found.note == {"rows": 3} and found.tensors["x"].sum() == 2
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"cannot write .*file"):
        store(tmp_path / "file", FACTS, {"x": torch.ones(2)}, {})


def test_a_cache_folder_that_is_a_file_costs_a_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.warns(HeadwaterWarning, match="not kept for the next time"):
        entry = remember(tmp_path / "cache", FACTS, Computation())
    assert entry == Entry(entry.tensors, {"steps": [1, 2], "word": "été \ud83d"}, cached=False)


def write_anew(folder: Path, note: str, tensors: dict[str, Tensor]) -> None:
    """Write a file as anybody can, checksums and all."""
    metadata = {"note": note, "note_sha256": _sha256(note)}
    files.write_tensors(path_of(folder, FACTS), tensors, metadata)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"scores": torch.ones(3, 2)},
        {"scores": torch.ones(6)},
        {"scores": torch.ones(2, 3, dtype=torch.int64)},
        {"scores": torch.ones(2, 3, dtype=torch.complex64)},
        {"scores": torch.tensor([[1.0, 1.0, float("nan")]] * 2)},
        {"scores": torch.ones(2, 3), "more": torch.ones(1)},
    ],
)
def test_a_file_of_a_stranger_counts_as_damaged(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    """Whose checksums are right."""
    write_anew(tmp_path, "{}", {"scores": torch.ones(2, 3)})
    assert read(tmp_path, FACTS, {"scores": (None, 3)}) is not None
    write_anew(tmp_path, "{}", tensors)
    assert read(tmp_path, FACTS, {"scores": (None, 3)}) is None
    compute = Computation()
    assert not remember(tmp_path, FACTS, compute, sizes={"scores": (2, 3)}).cached
    assert remember(tmp_path, FACTS, compute, sizes={"scores": (2, 3)}).cached


@pytest.mark.parametrize("note", ["", "[]", "{", "[" * 100_000])
def test_a_note_that_is_none_counts_as_damaged(tmp_path: Path, note: str) -> None:
    write_anew(tmp_path, note, {"scores": torch.ones(2, 3)})
    assert read(tmp_path, FACTS) is None
