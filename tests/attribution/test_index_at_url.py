"""An index at a URL that is larger than its room here: the scores of one on a disk."""

import pickle
from pathlib import Path

import fsspec
import pytest
import torch
from support.brute_force import inverse
from support.command_line import headwater
from support.index_files import DIM, ROWS, eleven_shards

from headwater import Index, Session
from headwater.attribution import passes
from headwater.attribution.scores import RULES
from headwater.errors import StoreError
from headwater.runtime.executor import Executor
from headwater.storage import room
from headwater.upkeep.push import push

URL = "memory://there/index"
CLOSE = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, tiny_images) -> Path:
    return eleven_shards(tmp_path_factory.mktemp("at-url"), tiny_model, tiny_images)


@pytest.fixture(autouse=True)
def there(world, tmp_path, monkeypatch):
    """It is at the URL, and two of its shards may be here."""
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(room, "MARGIN", 0)
    push(world, URL)
    shards = Index.open(world).manifest.shards
    monkeypatch.setenv(room.LIMIT, str(2 * shards[0].bytes))
    yield
    fsspec.filesystem("memory").store.clear()
    reading = tmp_path / "cache" / "remote" / "reading"
    assert not [path for path in reading.rglob("*") if path.is_file()], "nobody reads any more"


def shards_in(folder: Path) -> list[int]:
    paths = folder.rglob("features/*.safetensors")
    return sorted(int(path.stem) for path in paths if path.is_file())


def test_scores_are_those_of_a_disk(world):
    session, local = Session.open(URL), Session.open(world)
    folder, psi, ratios = session.index.path, torch.randn(3, DIM), [0.1, 0.5, 2.0]
    assert shards_in(folder) == []
    far, near = session.kernel(), local.kernel()
    assert torch.equal(far.dot(psi), near.dot(psi))
    assert torch.equal(far.trak(psi, ratios), near.trak(psi, ratios))
    phi = torch.cat(list(local.index.blocks())).double()
    for ratio, scores in zip(ratios, far.trak(psi, ratios).double(), strict=True):
        exact = psi.double() @ inverse(phi, ratio) @ phi.T
        torch.testing.assert_close(scores, exact, rtol=1e-3, atol=1e-4)
    for name, rule in RULES.items():  # of each draw, and by residuals
        one, other = (rule.score(kernel, psi, [0.1])[0.1] for kernel in (far, near))
        torch.testing.assert_close(one.answer(), other.answer(), **CLOSE, msg=name)
    assert len(shards_in(folder)) == 2
    kept = {path.name for path in (folder / "kernels").iterdir()}
    assert kept == {path.name for path in (world / "kernels").iterdir()} and kept


def test_workers_of_other_machines_copy_their_parts_alone(world, tmp_path, monkeypatch):
    """Each has a cache of its own, and nothing but what it is handed by pickle."""
    monkeypatch.setattr(passes, "ROWS_A_FEATURE", 3)
    monkeypatch.setenv(room.LIMIT, "1e9")
    copied = []

    def run(executor, start, items, device="cpu"):
        work = pickle.loads(pickle.dumps(start))()
        for number, item in reversed(pickle.loads(pickle.dumps(items))):
            other = tmp_path / f"machine-{len(copied)}"
            with monkeypatch.context() as patch:
                patch.setenv("HEADWATER_CACHE", str(other))
                made = pickle.loads(pickle.dumps(work((number, item))))
            part = item[0] if isinstance(item, tuple) else item
            wanted = [int(Path(shard.file).stem) for shard in part.manifest.shards]
            assert shards_in(other) == wanted
            copied.append(wanted)
            assert not list(other.rglob("index.json"))
            yield made

    monkeypatch.setattr(passes, "run", run)
    session, local = Session.open(URL, Executor("ray", 2)), Session.open(world)
    far, near, psi = session.kernel(), local.kernel(), torch.randn(3, DIM)
    torch.testing.assert_close(far.gram().matrix, near.gram().matrix, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(far.trak(psi, [0.1]), near.trak(psi, [0.1]), **CLOSE)
    weights = torch.randn(ROWS)
    found = passes.weighted_sum(session.index, Executor("ray", 2), weights)
    exact = weights.double() @ torch.cat(list(local.index.blocks())).double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert sorted(number for part in copied[-8:] for number in part) == list(range(11))
    assert shards_in(session.index.path) == [], "whoever asks reads none"
    assert not (session.index.path / "kernels" / "parts").exists()


def test_info_reads_no_rows_and_verify_all(world, tmp_path):
    made = headwater("info", URL)
    assert made.code == 0 and "11 of 11 whole" in made.out
    assert shards_in(tmp_path / "cache") == []
    made = headwater("verify", URL)
    assert made.code == 0 and "is whole" in made.out
    assert len(shards_in(tmp_path / "cache")) == 2


def test_what_lacks_a_shard_there(world, tmp_path):
    files = fsspec.filesystem("memory")
    files.rm_file("/there/index/features/00004.safetensors")
    made = headwater("info", URL)
    assert made.code == 2 and "10 of 11 whole" in made.out
    assert f"this is a copy of {URL}: mend the index that was pushed" in made.err


def test_all_that_is_damaged_there_is_listed(world):
    files = fsspec.filesystem("memory")
    for number in (4, 5, 10):
        files.rm_file(f"/there/index/features/{number:05d}.safetensors")
    files.pipe("/there/index/features/00000.safetensors", b"damaged")
    made = headwater("verify", URL)
    said = "safetensors is missing or damaged at its URL: remove it there before the next push;"
    told = made.out.splitlines()
    assert len(told) == 4
    for number, line in zip((0, 4, 5, 10), told, strict=True):
        assert line.startswith(f"features/{number:05d}.{said}")
    assert made.code == 2 and f"this is a copy of {URL}: mend the index that was pushed" in made.err


def test_a_copy_is_not_pushed(world):
    with pytest.raises(StoreError, match=f"is a copy of {URL}, which may lack rows"):
        push(Index.open(URL).path, "memory://elsewhere")
