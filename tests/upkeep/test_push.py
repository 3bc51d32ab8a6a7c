"""An index copied elsewhere answers there as here; what others should not see stays here."""

import errno
import json
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from huggingface_hub.utils import filter_repo_objects
from support.command_line import assert_refused
from support.command_line import headwater as run
from support.index_files import RECIPE
from support.object_store import bucket
from support.processes import PROCESSES
from support.tiny import tiny_folder

from headwater import Concept, Denoiser, Index, Session, build_index, load_dataset
from headwater.errors import MismatchError, ResourceError, StoreError
from headwater.storage.manifest import read_manifest, write_manifest
from headwater.storage.remote import PUSHING, fetch, file_system
from headwater.upkeep.push import push
from headwater.upkeep.push_lock import alone_at
from headwater.upkeep.remove import remove
from headwater.upkeep.verify import verify

QUERY = Concept("a red star", "star", draws=2)
SMALL = {**RECIPE, "dim": 16}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))
    yield
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model, "cpu")


@pytest.fixture(scope="module")
def built(tmp_path_factory, denoiser) -> Path:
    """An index in two shards, with a curvature, that was asked."""
    at = tmp_path_factory.mktemp("push")
    data = load_dataset(tiny_folder(at / "images", 70))
    index = build_index(denoiser, data, at / "index", **{**SMALL, "method": "ekfac"})
    Session(index).attribute(QUERY)
    return index.path


def scores(index, denoiser):
    return Session(Index.open(index, denoiser)).attribute(QUERY).scores


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


PUSHED = {
    "README.md", "index.json", "samples.parquet", "features/00000.safetensors",
    "features/00001.safetensors", "curvature/bases.safetensors", "curvature/moments.safetensors",
}  # fmt: skip


def test_it_answers_there_as_here_and_questions_stay_here(built, denoiser):
    push(built, "memory://there/index")
    there = Index.open("memory://there/index", denoiser)
    assert below(there.path) == {name for name in PUSHED if "features" not in name}
    np.testing.assert_array_equal(scores(there.path, denoiser), scores(built, denoiser))
    assert verify(there.path) == []
    assert below(there.path) > PUSHED and below(built) > PUSHED - {"README.md"}


def test_the_card(built, denoiser, tmp_path):
    push(built, f"file://{tmp_path}/there")
    card = (tmp_path / "there" / "README.md").read_text()
    assert card.startswith("---\npretty_name: Index of model, images\n")
    assert "`ekfac`" in card and "70 of 16 features" in card
    assert f"headwater concept file://{tmp_path}/there" in card
    assert 'index.attribute(Contribution("a prompt", "words of it"))' in card
    assert str(built.parent) not in card and denoiser.source not in card
    (tmp_path / "there" / "README.md").write_text("mine")
    push(built, f"file://{tmp_path}/there")
    assert (tmp_path / "there" / "README.md").read_text() == "mine"


def test_another_index_is_not_overwritten_by_chance(built, denoiser, tmp_path):
    data = load_dataset(tiny_folder(tmp_path / "others", 6))
    other = build_index(denoiser, data, tmp_path / "other", **{**SMALL, "method": "trak"})
    push(built, "memory://there/index")
    fsspec.filesystem("memory").pipe("/there/index/kernels-notes.md", b"somebody's own")
    with pytest.raises(MismatchError, match="another index is at memory://there/index"):
        push(other.path, "memory://there/index")
    push(other.path, "memory://there/index", overwrite=True)
    there = Index.open("memory://there/index", denoiser)
    assert len(there) == 6
    kept = {"README.md", "index.json", "samples.parquet", "kernels-notes.md"}
    assert below(there.path) == kept
    assert sum(map(len, there.blocks())) == 6
    assert below(there.path) == kept | {"features/00000.safetensors"}


def test_rows_that_are_there_are_not_copied_again(built, denoiser, tmp_path, monkeypatch):
    from headwater.upkeep import push as module

    sent, parts = [], module._in_parts

    def noted(names):
        sent.append(set(names))
        return parts(names)

    monkeypatch.setattr(module, "_in_parts", noted)
    push(built, "memory://there/index")
    push(built, "memory://there/index")
    rows = {"features/00000.safetensors", "features/00001.safetensors"}
    assert sent[0] - sent[1] == rows and "samples.parquet" in sent[1]
    fsspec.filesystem("memory").pipe("/there/index/features/00000.safetensors", b"cut")
    push(built, "memory://there/index")
    assert sent[2] & rows == {"features/00000.safetensors"}
    own = Index.open(built, denoiser)
    np.testing.assert_array_equal(
        scores("memory://there/index", denoiser), Session(own).attribute(QUERY).scores
    )


def test_other_files_are_left_alone(built):
    fsspec.filesystem("memory").pipe("/there/thesis.txt", b"years of work")
    with pytest.raises(MismatchError, match=r"holds other files \(thesis.txt\)"):
        push(built, "memory://there")
    assert set(fsspec.filesystem("memory").find("/there")) == {"/there/thesis.txt"}


def test_a_reader_sees_no_half_index(built, denoiser, monkeypatch):
    """Of a push that was cut off."""
    from headwater.upkeep import push as module

    push(built, "memory://there/index")
    monkeypatch.setattr(module, "_in_parts", lambda names: 1 / 0)
    with pytest.raises(StoreError, match="cannot reach memory://there/index"):
        push(built, "memory://there/index", overwrite=True)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="no index at"):
        Index.open("memory://there/index", denoiser)
    push(built, "memory://there/index")  # which goes on, and needs no --overwrite
    assert verify(Index.open("memory://there/index", denoiser).path) == []


# --- two at once ----------------------------------------------------------------------------------


def test_of_two_pushes_at_once_the_second_is_refused(built, denoiser, monkeypatch):
    from headwater.upkeep import push as module

    begun, go_on, parts = Event(), Event(), module._in_parts

    def waited(names):
        begun.set()
        assert go_on.wait(60)
        return parts(names)

    monkeypatch.setattr(module, "_in_parts", waited)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(push, built, "memory://there/index")
        try:
            assert begun.wait(60)
            said = rf"index is being written by process {os.getpid()} on .*: wait until it is done"
            copy = shutil.copytree(built, built.parent / "copy")  # of another user, say
            with pytest.raises(StoreError, match=said):
                push(copy, "memory://there/index", overwrite=True)
        finally:
            go_on.set()
        first.result()
    assert verify(Index.open("memory://there/index", denoiser).path) == []
    assert not fsspec.filesystem("memory").exists(f"/there/index/{PUSHING}")


@pytest.mark.parametrize("scheme", ["file", "memory", "s3"])
def test_a_place_is_one_pushs_at_a_time(tmp_path, scheme):
    """Whatever stands there meanwhile is no part of the index for who reads it."""
    with bucket() if scheme == "s3" else nullcontext():
        url = {"file": f"file://{tmp_path}/x", "memory": "memory://x", "s3": "s3://bucket/x"}[
            scheme
        ]
        files, root = file_system(url)
        files.makedirs(root, exist_ok=True)
        files.pipe_file(f"{root}/other", b"a file")
        with alone_at(files, root, url) as turn:
            assert not turn.was_begun
            with pytest.raises(StoreError, match=f"{url} is being written by process"):
                with alone_at(files, root, url):
                    pass
            assert below(fetch(url)) == {"other"}
        assert [name.rpartition("/")[2] for name in files.find(root)] == ["other"]


def test_of_many_that_begin_at_once_one_is_alone(tmp_path):
    """Each stays until all have tried."""
    files, root = file_system(f"file://{tmp_path}")
    together = Barrier(8)

    def tried(_: int) -> bool:
        together.wait(60)
        try:
            with alone_at(files, root, "there"):
                together.wait(60)
        except StoreError:
            together.wait(60)
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(tried, range(8))) == 1
    assert list(tmp_path.iterdir()) == []


OURS, DAY_AGO = socket.gethostname(), time.time() - 25 * 3600


@pytest.mark.parametrize(
    "said, taken_over",
    [
        ({"host": OURS, "pid": "dead"}, True),
        ({"host": OURS, "pid": "alive"}, False),
        ({"host": "elsewhere", "pid": "dead"}, False),
        ({"host": "elsewhere", "pid": 1, "since": DAY_AGO}, True),
        ({"host": "elsewhere", "pid": 0}, True),  # it could say that it stopped
        ({"host": OURS, "pid": 10**30}, False),
        ({"pid": 1}, False),
        ([], False),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_what_a_push_left_that_was_stopped_is_taken_over(built, denoiser, said, taken_over, begun):
    """And it goes on where something was begun; else what is there is another's."""
    memory, dead = fsspec.filesystem("memory"), PROCESSES.Process(target=print)
    dead.start()
    dead.join()
    if isinstance(said, dict):
        pid = {"dead": dead.pid, "alive": os.getpid()}.get(said["pid"], said["pid"])
        said = {"since": time.time(), "begun": begun, **said, "pid": pid}
    memory.pipe("/there/index/features/00001.safetensors", b"half")
    memory.pipe(f"/there/index/{PUSHING}", json.dumps(said).encode())
    if taken_over and begun:
        push(built, "memory://there/index")
        assert below(Index.open("memory://there/index", denoiser).path) > {"index.json"}
        return
    refused = "holds other files" if taken_over else "is being written by .*remove headwater-push"
    with pytest.raises(StoreError, match=refused):
        push(built, "memory://there/index")
    assert memory.exists(f"/there/index/{PUSHING}") != taken_over
    assert memory.cat("/there/index/features/00001.safetensors") == b"half"


@pytest.mark.parametrize("half", ["README.md", "00001.safetensors", "index.json"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_that_of_the_place(built, monkeypatch, tmp_path, half, number):
    """Not this machine's, for copies; with room the same push goes on, and not another's."""
    real, other = LocalFileSystem.put_file, shutil.copytree(built, tmp_path / "other")
    write_manifest(other, replace(read_manifest(built), versions={"python": "3.0.0"}))

    def refused(self, path1, path2, *args, **options):
        if Path(path2).name.startswith(half):
            Path(path2).write_bytes(Path(path1).read_bytes()[:40])
            raise OSError(number, os.strerror(number), path2)
        return real(self, path1, path2, *args, **options)

    url = f"file://{tmp_path}/there"
    mend = {errno.ENOSPC: "no space left to write", errno.EROFS: "make it writable, or name anoth"}
    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", refused)
        with pytest.raises((ResourceError, StoreError), match=mend[number]) as caught:
            push(built, url)
    place = tmp_path / "there" / half if half == "index.json" else url
    assert str(place) in str(caught.value) and "HEADWATER_CACHE" not in str(caught.value)
    push(built, url)
    assert below(tmp_path / "there") == PUSHED and verify(tmp_path / "there") == []
    assert (tmp_path / "there/README.md").read_text().endswith("against its checksum.\n")
    with pytest.raises(MismatchError, match="another index is at"):
        push(other, url)


def test_a_kill_leaves_no_half_manifest_on_a_disk(built, tmp_path, monkeypatch):
    """Whoever reads that folder would be told that it is damaged."""
    real, there = LocalFileSystem.put_file, tmp_path / "there"

    def killed(self, path1, path2, *args, **options):
        if Path(path2).name.startswith("index.json"):
            Path(path2).write_bytes(Path(path1).read_bytes()[:40])
            patch.setattr(Path, "unlink", lambda *_, **__: None)  # it cleans up no more
            raise KeyboardInterrupt
        return real(self, path1, path2, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalFileSystem, "put_file", killed)
        with pytest.raises(KeyboardInterrupt):
            push(built, str(there))
    left = {name.partition(".json")[0] for name in below(there)}
    assert "index.json" not in below(there) and "index" in left
    push(built, str(there))
    assert below(there) == PUSHED and verify(there) == []


def test_nobody_changes_an_index_between_a_look_at_it_and_its_copy(built, tmp_path, monkeypatch):
    from headwater.upkeep import push as module

    own, looked = Path(shutil.copytree(built, tmp_path / "own")), []

    def looking(folder):
        with pytest.raises(StoreError, match="is being written"):
            remove(folder, ids=[Index.open(folder).samples[3].id])
        looked.append(folder)
        return verify(folder)

    monkeypatch.setattr(module, "verify", looking)
    push(own, "memory://there")
    assert looked == [own] and read_manifest(own).removed == ()


def test_what_is_not_whole_or_was_removed_from_is_refused(built, tmp_path):
    broken = shutil.copytree(built, tmp_path / "broken")
    (broken / "features/00001.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is damaged: run .*headwater repair"):
        push(broken, "memory://there")
    less = shutil.copytree(built, tmp_path / "less")
    remove(less, ids=[Index.open(less).samples[3].id])
    with pytest.raises(StoreError, match=r"1 image\(s\) were removed .*--with-removed"):
        push(less, "memory://there")
    push(less, "memory://there", with_removed=True)
    assert len(Index.open("memory://there")) == 69


class Hub:
    """A folder that stands in for the hub: one commit at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, []

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        assert repo_type == "dataset" and exist_ok
        self.made.append((repo_id, private))
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)

    def list_repo_files(self, repo_id, repo_type, revision):
        return sorted(below(self.folder / repo_id))

    def upload_file(self, repo_id, repo_type, path_or_fileobj, path_in_repo, revision):
        at = self.folder / repo_id / path_in_repo
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path_or_fileobj, at)

    def hf_hub_download(self, repo_id, repo_type, filename, local_dir):
        at = Path(local_dir) / filename
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / repo_id / filename, at)

    def upload_folder(
        self, repo_id, repo_type, folder_path, path_in_repo, revision, allow_patterns, **_
    ):
        for name in allow_patterns:
            at = self.folder / repo_id / (path_in_repo or "") / name
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(folder_path) / name, at)

    def snapshot_download(
        self, repo_id, repo_type, revision, local_dir, allow_patterns, ignore_patterns
    ):
        assert repo_type == "dataset" and revision in (None, "v1")
        every = sorted(below(self.folder / repo_id))
        patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
        for name in filter_repo_objects(every, **patterns):
            at = Path(local_dir) / name
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / repo_id / name, at)


@pytest.mark.parametrize("place", ["someone/index", "someone/things/index"])
def test_a_hub(built, denoiser, tmp_path, monkeypatch, place):
    import huggingface_hub

    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    push(built, f"hf://datasets/{place}")
    assert hub.made == [("/".join(place.split("/")[:2]), True)]
    for kept in ("queries", "checkpoints/0/kernels"):  # by whoever put the whole folder there
        (hub.folder / place / kept).mkdir(parents=True)
        (hub.folder / place / kept / "0.safetensors").write_bytes(b"wrong")
    for revision in (None, "v1"):
        there = Index.from_pretrained(place, revision, denoiser=denoiser)
        assert not [name for name in below(there.path) if name.endswith("/0.safetensors")]
        np.testing.assert_array_equal(scores(there.path, denoiser), scores(built, denoiser))
    assert len(Index.from_pretrained(built)) == 70
    push(built, f"hf://datasets/{place}")  # the same again
    with pytest.raises(StoreError, match="is no data set, which an index is kept as"):
        push(built, "hf://someone/model")


def test_an_object_store_with_model_and_images_there(built, tiny_model, tmp_path):
    """All three at URLs, by the command line."""
    with bucket() as files:
        files.put(str(tiny_model), "bucket/model", recursive=True)
        files.put(str(tiny_folder(tmp_path / "images", 6)), "bucket/images", recursive=True)
        own = [*"--method trak --timesteps 1 --dim 16 --parameters attn2".split()]
        done = run("index", "s3://bucket/model", "s3://bucket/images", tmp_path / "index", *own)
        assert done.code == 0, done.err
        said = json.loads((tmp_path / "index" / "index.json").read_text())
        assert said["model"]["source"] == "s3://bucket/model"
        assert said["data"]["source"] == "s3://bucket/images"
        done = run("push", tmp_path / "index", "s3://bucket/index")
        assert done.code == 0 and "is at s3://bucket/index" in done.out
        asked = ["a red star", "--concept", "star", "--draws", "2", "--json", "--out"]
        done = run("concept", "s3://bucket/index", *asked, tmp_path / "there")
        assert done.code == 0, done.err
        there = json.loads(done.out)
        here = json.loads(run("concept", tmp_path / "index", *asked, tmp_path / "here").out)
        assert there["results"][0]["top"] == here["results"][0]["top"]
        picture = (tmp_path / "there" / "report.html").read_text()
        assert "data:image/" in picture
        refused = run("remove", "s3://bucket/index", "--where", "id contains 1")
        assert_refused(refused, "s3://bucket/index is on no disk")
