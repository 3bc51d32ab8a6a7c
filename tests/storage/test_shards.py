"""The index on disk against docs/format.md: exact bytes, damage of every kind, a full disk."""

import copy
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import struct
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from headwater.errors import MismatchError, ResourceError, StoreError
from headwater.index.config import FEATURES_VERSION
from headwater.index.index import Index
from headwater.storage import blocks, files
from headwater.storage import manifest as manifest_module
from headwater.storage import shards as store
from headwater.storage.manifest import (
    Manifest,
    Shard,
    read_manifest,
    require_same,
    run_of,
    write_manifest,
)

PAGE = Path(__file__).parents[2] / "docs" / "format.md"

RECIPE = {
    "method": "concept-trak", "train_path": "inversion", "train_delta": "dps", "normalise": "probe",
    "parameters": "attn2", "layers": ["a.to_q", "a.to_k"], "timesteps": [499, 999], "draws": 1,
    "dim": 4, "seed": 0, "projection": "count-sketch", "inversion_guidance": 1.0, "clip": "",
    "features_version": FEATURES_VERSION,
}  # fmt: skip

# Rows whose root mean square is exact, so that each stored number is too: +-1 times a scale.
SIGNS = [[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]
MAGNITUDES = [1.0, 1e-20, 1e20]


def manifest(rows: int = 3, **changes) -> Manifest:
    return Manifest(**{
        "recipe": RECIPE,
        "model": {"source": "m", "dtype": "float32", "fingerprint": "ab" * 32},
        "data": {"source": "d", "options": {}, "fingerprint": "cd" * 32, "rows": rows},
        "versions": {"torch": "2"},
        "shard_rows": 2,
        **changes,
    })  # fmt: skip


def write_index(folder: Path, rows: torch.Tensor) -> Manifest:
    """A finished index with two rows a shard."""
    shards, begun = [], manifest(len(rows))
    for number, first in enumerate(range(0, len(rows), 2)):
        part = rows[first : first + 2]
        held = store.ShardRows(part, range(first, first + len(part)))
        shards.append(store.write_shard(folder, begun, number, held))
    names = [f"row-{row}" for row in range(len(rows))]
    table = {"row": range(len(rows)), "id": names, "caption": names, "uri": names}
    files.write_table(folder / "samples.parquet", pa.table(table))
    return store.finish(folder, begun, shards)


def plain(module: ModuleType) -> ModuleType:
    """A second copy of a module, without the type checks that the test run adds to the first."""
    name = f"plain_{module.__name__.rpartition('.')[2]}"
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    assert spec is not None and spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    sys.modules[name] = copy  # where dataclasses look their module up
    spec.loader.exec_module(copy)
    return copy


def read(folder: Path) -> torch.Tensor:
    """All rows, as anybody reads them, with nothing but the module itself to catch bad types."""
    return torch.cat(list(BLOCKS.read_blocks(folder, MANIFEST.read_manifest(folder))))


MANIFEST, BLOCKS = plain(manifest_module), plain(blocks)
ROWS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An index of five rows in three shards; tests that change it put it back."""
    folder = tmp_path_factory.mktemp("store") / "index"
    write_index(folder, ROWS)
    return folder


@pytest.fixture
def index(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "index"))


# --- exact bytes --------------------------------------------------------------------------------


def test_golden_shard(tmp_path):
    rows = torch.tensor(SIGNS) * torch.tensor(MAGNITUDES)[:, None]
    begun = manifest(30)
    shard = store.write_shard(tmp_path, begun, 7, store.ShardRows(rows, [14, 16, 17], ["bad.png"]))
    data = (tmp_path / "features/00007.safetensors").read_bytes()

    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    told = json.loads(header.pop("__metadata__")["headwater"])
    assert (told.pop("first"), told.pop("skipped")) == (14, ["bad.png"])
    assert told.pop("index") == json.loads(json.dumps(asdict(begun)))
    assert list(told) == ["sha256"] and len(told["sha256"]) == 64
    said = {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
    assert said == {"features": ("F16", [3, 4]), "scale": ("F32", [3]), "position": ("I64", [3])}
    golden = {
        "features": np.array(SIGNS, "<f2"),
        "scale": np.array(MAGNITUDES, "<f4"),
        "position": np.array([14, 16, 17], "<i8"),
    }
    for name, expected in golden.items():
        start, end = header[name]["data_offsets"]
        assert body[start:end] == expected.tobytes(), name
    assert len(body) == sum(expected.nbytes for expected in golden.values())

    whole = (shard.file, shard.first, shard.rows, shard.skipped, shard.bytes, shard.checksum)
    digest = f"xxh3:{xxhash.xxh3_128_hexdigest(data)}"
    assert whole == ("features/00007.safetensors", 14, 3, ("bad.png",), len(data), digest)
    note = json.loads((tmp_path / "features/00007.json").read_text())
    assert tuple(note.values()) == (run_of(begun), *whole[:3], ["bad.png"], *whole[4:])
    assert store.read_shard(tmp_path, 7) == (begun, shard)


@pytest.mark.parametrize("magnitude", [0.0, 1e-42, 1e-30, 1e-20, 1.0, 1e20, 1e37])
def test_rows_of_any_magnitude_read_back_to_half_precision(tmp_path, magnitude):
    rows = magnitude * torch.cat([ROWS, torch.tensor([[1.0, 1e-3, 1e-6, 0.0]])])
    write_index(tmp_path, rows)
    got = read(tmp_path).double()
    scale = rows.double().square().mean(1, keepdim=True).sqrt().clamp_min(2.0**-126)
    bound = torch.maximum(2.0**-11 * rows.double().abs(), 2.0**-25 * scale)
    assert ((got - rows.double()).abs() <= 1.001 * bound).all()


def test_manifest_round_trip(tmp_path):
    shard = Shard("features/00000.safetensors", 0, 2, ("zürich.png",), 100, f"xxh3:{'ef' * 16}")
    written = manifest(shards=(shard,), complete=True)
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    raw = json.loads((tmp_path / "index.json").read_text("utf-8"))
    assert set(raw) == {
        "format", "version", "recipe", "model", "data", "versions", "shard_rows", "checkpoints",
        "metric", "complete", "samples_sha256", "shards", "removed", "checksum",
    }  # fmt: skip
    assert (raw["format"], raw["version"]) == ("headwater-index", 3)
    said = json.dumps({k: v for k, v in raw.items() if k != "checksum"}, sort_keys=True,
                      ensure_ascii=False)  # fmt: skip
    assert raw["checksum"] == f"xxh3:{xxhash.xxh3_128_hexdigest(said.encode())}"
    assert raw["shards"][0]["skipped"] == ["zürich.png"]
    assert (written.rows, written.skipped) == (2, ["zürich.png"])


def test_the_reader_in_the_specification_reads_the_same(whole):
    (source,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict = {}
    exec(source, names)
    theirs = np.concatenate(list(names["read_rows"](whole)))
    assert np.array_equal(theirs, read(whole).numpy())
    assert np.allclose(theirs, ROWS.numpy(), rtol=2**-10)


def to_version(index: Path, version: int) -> None:
    """Rewrite `index.json` as an earlier format version would have it."""
    raw = json.loads((index / "index.json").read_text("utf-8"))
    raw["version"] = version
    del raw["checksum"]
    for shard in raw["shards"] if version == 1 else ():
        del shard["checksum"]
        shard["sha256"] = hashlib.sha256((index / shard["file"]).read_bytes()).hexdigest()
    (index / "index.json").write_text(json.dumps(raw))


def test_version_1_is_read(index, whole):
    to_version(index, 1)
    assert torch.equal(read(index), read(whole))
    old = read_manifest(index)
    assert old.version == 3 and {shard.checksum[:7] for shard in old.shards} == {"sha256:"}
    write_manifest(index, old)  # as where the model has moved
    assert read_manifest(index) == old
    flip(0.9)(index / "features/00001.safetensors")
    with pytest.raises(StoreError, match=r"00001\.safetensors is damaged"):
        read(index)
    assert sorted(store.finished_shards(index, old)) == [0, 4]


def test_version_2_is_read(index, whole):
    to_version(index, 2)
    assert torch.equal(read(index), read(whole))
    write_manifest(index, read_manifest(index))
    assert (index / "index.json").read_bytes() == (whole / "index.json").read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"dim": 4, "method": "other"}])
def test_a_shard_counts_for_its_own_run(tmp_path, change):
    """Of whom it is, is no matter of which method it was asked for."""
    other = manifest(recipe={**RECIPE, **change})
    for number in range(2):
        rows = store.ShardRows(ROWS[:2], [2 * number, 2 * number + 1])
        store.write_shard(tmp_path, other if number else manifest(), number, rows)
    same = "seed" not in change
    assert (run_of(other) == run_of(manifest())) == same
    assert sorted(store.finished_shards(tmp_path, manifest())) == ([0, 2] if same else [0])
    assert sorted(store.finished_shards(tmp_path, other)) == ([0, 2] if same else [2])


@pytest.mark.parametrize("change", ["run", "file"])
def test_a_note_of_no_run_or_of_another_file_does_not_count(tmp_path, change):
    store.write_shard(tmp_path, manifest(), 0, store.ShardRows(ROWS[:2], [0, 1]))
    note = tmp_path / "features/00000.json"
    raw = json.loads(note.read_text())
    if change == "run":
        del raw["run"]
        note.write_text(json.dumps(raw))
    else:
        note.rename(tmp_path / "features/00001.json")
    assert store.finished_shards(tmp_path, manifest()) == {}


@pytest.mark.parametrize("checksum", ["", "xxh3:", "sha256:", "md5:00", "ef" * 32])
def test_a_checksum_of_another_kind_is_never_right(index, checksum):
    path = index / "features/00000.safetensors"
    assert files.has_checksum(path, files.checksum_of(path))
    assert not files.has_checksum(path, checksum)


@pytest.mark.parametrize(
    "rows, shard_rows, expected",
    [(5, 2, [range(0, 2), range(2, 4), range(4, 5)]), (4, 4, [range(4)]), (1, 9, [range(1)])],
)
def test_shard_ranges(rows, shard_rows, expected):
    assert store.shard_ranges(rows, shard_rows) == expected


@pytest.mark.parametrize("rows, expected", [(1, 64), (2048, 64), (6401, 201), (10**7, 4096)])
def test_default_shard_rows(rows, expected):
    assert store.default_shard_rows(rows) == expected


# --- damage -------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(place: float):
    """Flip one bit at this share of the file's length."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    return change


@pytest.mark.parametrize(
    "damage, said",
    [
        (truncate, "is damaged"),
        (Path.unlink, "is missing"),
        *((flip(place), "is damaged") for place in (0, 0.1, 0.5, 0.7, 0.9, 1)),
    ],
)
def test_a_damaged_shard_is_refused_by_name(index, damage, said):
    damage(index / "features/00001.safetensors")
    with pytest.raises(StoreError, match=rf"00001\.safetensors {said}.*`headwater repair"):
        read(index)
    assert sorted(store.finished_shards(index, read_manifest(index))) == [0, 4]


def test_a_shard_that_lacks_a_tensor_is_refused_even_with_its_checksum_right(index):
    files.write_tensors(index / "features/00000.safetensors", {"features": ROWS[:2]}, {})
    data = (index / "features/00000.safetensors").read_bytes()
    old = read_manifest(index)
    entry = replace(
        old.shards[0], bytes=len(data), checksum=f"sha256:{hashlib.sha256(data).hexdigest()}"
    )
    write_manifest(index, replace(old, shards=(entry, *old.shards[1:])))
    with pytest.raises(StoreError, match=r"features is F32 of \[2, 4\], and not F16"):
        read(index)


@pytest.mark.parametrize(
    "text, said",
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"\xff\xfe", "cannot read"),
        (b'"headwater-index"', "damaged"),
        (b"{}", "damaged"),
        (b'{"format": "other"}', "no headwater index"),
        (b'{"format": "headwater-index", "version": 4}', "format version 4"),
        (b'{"format": "headwater-index", "version": 3}', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"format": ' + b"9" * 5_000, "damaged"),
        (b'{"format": "headwater-index", "version": 2}', "damaged"),
        (b'{"format": "headwater-index", "version": 1}', "damaged"),
        (None, "no index at"),
    ],
)
def test_what_is_no_manifest(index, text, said):
    path = index / "index.json"
    path.unlink() if text is None else path.write_bytes(text)
    with pytest.raises(StoreError, match=said) as caught:
        read(index)
    assert "\n" not in str(caught.value)


def with_checksum(raw: dict) -> dict:
    """The same with a checksum that is right, as nobody's accident has it."""
    said = {key: value for key, value in raw.items() if key != "checksum"}
    return {**said, "checksum": manifest_module._checksum(said)}


WRONG = [None, -1, "x", [], {}]
KEYS = [
    "format", "version", "recipe", "model", "data", "versions", "shard_rows", "checkpoints",
    "complete", "samples_sha256", "shards",
]  # fmt: skip
ENTRY = ["file", "first", "rows", "skipped", "bytes", "checksum"]


@pytest.mark.parametrize(
    "path",
    [
        *((key,) for key in KEYS),
        *(("shards", 1, key) for key in ENTRY),
        *(("recipe", key) for key in RECIPE),
        *((part, "fingerprint") for part in ("model", "data")),
        ("data", "rows"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_manifest_without_a_key_or_with_another_type(index, path):
    raw = json.loads((index / "index.json").read_text())
    *parents, key = path
    changes = ["lost"] if parents in (["recipe"], ["model"]) or "fingerprint" in path else []
    for wrong in changes or ["lost", *WRONG]:
        broken = copy.deepcopy(raw)
        place = broken
        for step in parents:
            place = place[step]
        if wrong == "lost":
            del place[key]
        elif type(wrong) is type(place[key]) and key != "rows":
            continue
        elif key == "skipped" and wrong == {}:
            continue  # reads as no ids, which it says too
        else:
            place[key] = wrong
        for raw_broken in (broken, with_checksum(broken)):
            (index / "index.json").write_text(json.dumps(raw_broken))
            with pytest.raises(StoreError):
                read(index)


@pytest.mark.parametrize(
    "change",
    [
        lambda shards: shards.pop(),
        lambda shards: shards.insert(0, shards[0]),
        lambda shards: shards.reverse(),
        lambda shards: shards[2].update(skipped=["x"]),
        lambda shards: shards[0].update(first=1),
        lambda shards: shards.__setitem__(1, shards[0]),
    ],
    ids=["lost", "twice", "reversed", "skipped", "first", "repeated"],
)
def test_shards_that_do_not_add_up(index, change):
    raw = json.loads((index / "index.json").read_text())
    change(raw["shards"])
    (index / "index.json").write_text(json.dumps(with_checksum(raw)))
    with pytest.raises(StoreError, match="add up"):
        read(index)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(
    name=st.sampled_from(["index.json", "features/00000.safetensors"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
)
def test_fuzzed_files_give_the_same_numbers_or_a_store_error(whole, name, edits, cut):
    path = whole / name
    good, numbers = path.read_bytes(), read(whole)
    bad = bytearray(good)
    for place, byte in edits:
        bad[int(place * (len(bad) - 1))] = byte
    try:
        path.write_bytes(bad if cut is None else bad[: int(cut * len(bad))])
        assert torch.equal(read(whole), numbers)
    except StoreError:
        pass
    finally:
        path.write_bytes(good)


SHORT = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SHORT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SHORT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(places=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True), value=JSON)
def test_a_manifest_of_any_json_is_refused_or_read_as_it_was(whole, places, value):
    """Even with a checksum that is right."""
    path = whole / "index.json"
    good, said = path.read_bytes(), json.loads(path.read_bytes())
    changed = with_checksum({**said, **dict.fromkeys(places, value)})
    try:
        path.write_text(json.dumps(changed))
        try:
            assert json.loads(json.dumps(asdict(read_manifest(whole)))) == {
                key: entry for key, entry in changed.items() if key != "checksum"
            }
        except StoreError as error:
            assert "\n" not in str(error)
    finally:
        path.write_bytes(good)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(note=JSON | st.dictionaries(st.sampled_from(["run", *ENTRY]), JSON))
def test_a_note_of_any_json_counts_for_nothing(whole, note):
    unlisted = replace(read_manifest(whole), complete=False, shards=())
    path = whole / "features/00000.json"
    try:
        path.write_text(json.dumps(note))
        assert store.finished_shards(whole, unlisted) == {}
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "table",
    [
        None,
        b"not parquet",
        {"row": [0], "id": ["a"], "caption": [""], "uri": [""]},
        {"row": range(5), "id": "abcde", "caption": [""] * 5},
    ],
    ids=["missing", "not parquet", "too few rows", "a column less"],
)
def test_damaged_samples(index, table):
    path = index / "samples.parquet"
    path.unlink()
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif table is not None:
        files.write_table(path, pa.table({name: list(column) for name, column in table.items()}))
    with pytest.raises(StoreError, match=r"samples\.parquet.*`headwater repair"):
        Index.open(index)


def test_other_features_are_refused(index):
    old = read_manifest(index)
    write_manifest(index, replace(old, recipe={**RECIPE, "features_version": FEATURES_VERSION + 1}))
    with pytest.raises(StoreError, match=f"features of version {FEATURES_VERSION + 1}"):
        Index.open(index).recipe  # noqa: B018 - a property that raises


@pytest.mark.parametrize("key", [key for key in RECIPE if key != "features_version"])
def test_a_recipe_of_other_types_is_refused(index, key):
    """But what is no key of it."""
    wrong = {"layers": [1], "timesteps": ["x"]}.get(key, {"x": 1})
    write_manifest(index, replace(read_manifest(index), recipe={**RECIPE, key: wrong}))
    with pytest.raises(StoreError, match=f"damaged.*{key} is") as caught:
        Index.open(index).recipe  # noqa: B018 - a property that raises
    assert "\n" not in str(caught.value)


def test_a_checksum_is_verified_once_and_again_where_the_file_changed(index, monkeypatch):
    read_through, real = [], store.has_checksum

    def counted(path, checksum):
        read_through.append(path.name)
        return real(path, checksum)

    monkeypatch.setattr(store, "has_checksum", counted)
    opened = Index.open(index)
    first = torch.cat(list(opened.blocks()))
    assert len(read_through) == 3
    assert torch.equal(torch.cat(list(opened.blocks())), first) and len(read_through) == 3
    path = index / "features/00001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole)  # the same, but who knows
    assert torch.equal(torch.cat(list(opened.blocks())), first)
    assert read_through[3:] == ["00001.safetensors"]
    assert torch.equal(opened.some_rows([4, 0]).features, first[[4, 0]])
    assert read_through[3:] == ["00001.safetensors"]
    flip(0.9)(path)
    with pytest.raises(StoreError, match=r"00001\.safetensors is damaged"):
        list(opened.blocks())


def test_a_scan_gives_the_same_rows_in_one_piece_of_memory(index):
    opened = Index.open(index)
    apart, places = [], set()
    for block in opened.scan():
        apart.append(block.clone())
        places.add(block.data_ptr())
    assert torch.equal(torch.cat(apart), torch.cat(list(opened.blocks()))) and len(places) == 1


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, change, said",
    [
        ("recipe", {"seed": 1}, "recipe seed = 0, this run has 1"),
        ("recipe", {"layers": ["a.to_q"]}, "recipe layers = .*to_k.*, this run has .*to_q"),
        ("recipe", {"new": 1}, "recipe new = None, this run has 1"),
        ("recipe", {"seed": 1, "dim": 3}, "recipe dim = 4"),
        ("model", {"fingerprint": "f" * 64}, "model fingerprint"),
        ("data", {"rows": 9}, "data rows = 3, this run has 9"),
    ],
)
def test_the_first_difference_is_named(tmp_path, part, change, said):
    new = manifest(**{part: {**getattr(manifest(), part), **change}})
    with pytest.raises(MismatchError, match=said):
        require_same(tmp_path, manifest(), new)


def test_where_it_came_from_is_no_difference(tmp_path):
    moved = {part: {**getattr(manifest(), part), "source": "moved"} for part in ("model", "data")}
    as_stored = {"recipe": {**RECIPE, "layers": ("a.to_q", "a.to_k")}}  # JSON has no tuples
    require_same(tmp_path, manifest(), manifest(**moved, **as_stored))


def test_finished_shards_of_a_build_that_was_killed(tmp_path):
    for number in range(3):
        rows = store.ShardRows(ROWS[:2], [2 * number, 2 * number + 1])
        store.write_shard(tmp_path, manifest(), number, rows)
    features = tmp_path / "features"
    (features / "00001.json").write_bytes(b'{"file": \xff')  # a note that is none
    (features / "00003.json").write_text("[]")
    (features / "00004.safetensors.1.part").write_bytes(b"half")
    assert sorted(store.finished_shards(tmp_path, manifest())) == [0, 4]
    (features / "00000.safetensors").write_bytes(b"changed")
    assert sorted(store.finished_shards(tmp_path, manifest())) == [4]


def test_finish_leaves_nothing_but_the_index(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features/00000.safetensors.99.part").write_bytes(b"half")
    (tmp_path / "index.json.99.part").write_bytes(b"half")
    write_index(tmp_path, ROWS)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    shards = {f"features/0000{number}.safetensors" for number in range(3)}
    assert left == {"index.json", "samples.parquet", *shards}
    assert blocks.read_positions(tmp_path, read_manifest(tmp_path).shards) == [*range(5)]


# --- a full disk --------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")
FIVE = store.ShardRows(ROWS, range(5))
FULL_IN_RUST = SafetensorError("I/O error: No space left on device (os error 28)")


def half_then(error: BaseException):
    """A write that fails in the middle, whichever of the writers it stands for."""

    def write(*args, **_):
        for path in (arg for arg in args if isinstance(arg, Path)):
            path.write_bytes(b"half")
        raise error

    return write


Writer = files.pq.ParquetWriter
WRITES = {
    "shard": (store, "save_file", lambda f: store.write_shard(f, manifest(), 0, FIVE)),
    "tensors": (files, "save_file", lambda f: files.write_tensors(f / "k/a.st", {"a": ROWS}, {})),
    "table": (Writer, "write_table", lambda f: files.write_table(f / "a", pa.table({"a": [1]}))),
    "array": (files.np, "save", lambda f: files.write_array(f / "a.npy", ROWS.numpy())),
    "text": (Path, "write_text", lambda f: write_manifest(f, manifest())),
    "sync": (files.os, "fsync", lambda f: write_manifest(f, manifest())),
}


@pytest.mark.parametrize(
    "error, raised, said",
    [
        (FULL, ResourceError, "no space left to write .*; what was finished is kept"),
        (FULL_IN_RUST, ResourceError, "no space left to write"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ResourceError, "no space left to write"),
        (OSError("262144 requested and 1024 written"), ResourceError, "no space left to write"),
        (OSError(errno.EIO, "Input/output error"), StoreError, "cannot write .*Input/output"),
        (
            OSError(errno.EROFS, "Read-only file system"),
            StoreError,
            "cannot write .*: Read-only file system: make it writable, or name another folder",
        ),
        (KeyboardInterrupt("ctrl-c"), KeyboardInterrupt, "ctrl-c"),
    ],
    ids=["full", "in safetensors", "quota", "in numpy", "broken", "read-only", "interrupted"],
)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch, write, error, raised, said):
    module, name, call = WRITES[write]
    monkeypatch.setattr(module, name, half_then(error))
    with pytest.raises(raised, match=said):
        call(tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_every_flipped_bit_of_the_manifest_is_seen(whole):
    """Or changes nothing that it says."""
    path = whole / "index.json"
    good, said = path.read_bytes(), read_manifest(whole)
    try:
        for place in range(len(good)):
            for bit in (1, 2, 16):
                path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
                try:
                    assert read_manifest(whole) == said
                except StoreError as error:
                    assert "\n" not in str(error)
    finally:
        path.write_bytes(good)


NO_ROWS = ["../../etc/passwd", "features/../index.json", "/dev/zero", "features/00000.json",
           "features\\00000.npy", "checkpoints/0"]  # fmt: skip


@pytest.mark.parametrize("file", NO_ROWS)
def test_what_is_no_file_of_rows_is_not_opened(index, file):
    raw = json.loads((index / "index.json").read_text())
    raw["shards"][0]["file"] = file
    (index / "index.json").write_text(json.dumps(with_checksum(raw)))
    with pytest.raises(StoreError, match="is no file of rows"):
        read(index)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
@pytest.mark.parametrize("name", ["index.json", "features/00000.safetensors", "samples.parquet"])
def test_a_pipe_is_not_waited_for(index, name):
    (index / name).unlink()
    os.mkfifo(index / name)
    with pytest.raises(StoreError) as caught:
        read(index)
        Index.open(index)
    assert "\n" not in str(caught.value)


def test_a_shard_that_changed_before_the_end_is_named(tmp_path):
    shard = store.write_shard(tmp_path, manifest(2), 0, store.ShardRows(ROWS[:2], [0, 1]))
    store.write_shard(tmp_path, manifest(2), 0, store.ShardRows(ROWS[2:4], [0, 1]))
    files.write_table(tmp_path / "samples.parquet", pa.table({"row": [0, 1]}))
    with pytest.raises(StoreError, match="has changed since it was written: `headwater repair"):
        store.finish(tmp_path, manifest(2), [shard])
    assert not (tmp_path / "index.json").exists()


def test_what_kills_left_in_a_cache_goes_after_a_day(tmp_path):
    old, young = tmp_path / "a.1.part", tmp_path / "b.2.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - files.DAY - 60,) * 2)
    files.keep(tmp_path / "kept.safetensors", {"a": ROWS}, {})
    assert {path.name for path in tmp_path.iterdir()} == {"b.2.part", "kept.safetensors"}


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    """Without that a power cut may take the name, and with it what was said to be kept."""
    steps = []
    fsync, replace_file = files.os.fsync, Path.replace

    def synced(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(files.os.fstat(handle).st_mode) else "file"
        steps.append(f"sync {kind}")
        fsync(handle)

    def renamed(path: Path, to: Path) -> Path:
        steps.append("rename")
        return replace_file(path, to)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    files.write_text(tmp_path / "a", "text")
    assert steps == ["sync file", "rename", "sync folder"]


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO])
def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch, error):
    """Not every file system can; a disk that is broken is another matter."""
    fsync = files.os.fsync

    def synced(handle: int) -> None:
        if stat.S_ISDIR(files.os.fstat(handle).st_mode):
            raise OSError(error, "no")
        fsync(handle)

    monkeypatch.setattr(files.os, "fsync", synced)
    if error == errno.EINVAL:
        files.write_text(tmp_path / "a", "text")
        assert (tmp_path / "a").read_text() == "text"
    else:
        with pytest.raises(StoreError, match="cannot write"):
            files.write_text(tmp_path / "a", "text")


def test_what_a_kill_left_of_safetensors_own_write_goes_too(tmp_path):
    """It writes under a name of its own, in the same folder."""
    for name in (".tmpC1QIs6", "00001.safetensors.0123456789ab.part", ".tmp", "mine.tmp"):
        (tmp_path / name).write_bytes(b"half")
    files.remove_parts(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4  # somebody may be at it
    files.remove_parts(tmp_path, older_than=0)
    assert {path.name for path in tmp_path.iterdir()} == {".tmp", "mine.tmp"}


@pytest.mark.skipif(os.name != "posix", reason="there are no such modes")
def test_all_files_may_be_read_by_whom_the_user_lets(tmp_path):
    """An index on a disk that several share."""
    before = os.umask(0o027)
    try:
        store.write_shard(tmp_path, manifest(), 0, FIVE)
        files.write_tensors(tmp_path / "kernels/a.safetensors", {"a": ROWS}, {})
        write_manifest(tmp_path, manifest())
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_full_disk_keeps_what_was_there(index, monkeypatch):
    before = (index / "index.json").read_bytes()
    monkeypatch.setattr(Path, "write_text", half_then(FULL))
    with pytest.raises(ResourceError):
        write_manifest(index, manifest())
    assert (index / "index.json").read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "features").write_text("a file")
    with pytest.raises(StoreError, match="cannot write"):
        store.write_shard(tmp_path, manifest(), 0, FIVE)


def test_a_flipped_bit_in_a_cache_counts_as_absent(tmp_path):
    path = tmp_path / "kept.safetensors"
    files.write_tensors(path, {"a": ROWS, "b": ROWS[:2].clone()}, {"concept": "star"})
    whole = path.read_bytes()
    kept = files.read_tensors(path)
    assert kept is not None and torch.equal(kept["a"], ROWS) and torch.equal(kept["b"], ROWS[:2])
    for place in range(len(whole) - 4 * ROWS.numel(), len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert files.read_tensors(path) is None
    path.unlink()
    assert files.read_tensors(path) is None
