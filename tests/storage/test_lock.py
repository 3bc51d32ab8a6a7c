"""One writer at a time: who waits, who is refused, and what a writer leaves that was killed."""

import json
import os
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from support.processes import PROCESSES, holding

from headwater.errors import StoreError
from headwater.storage.lock import locked


def nobody(owner: str) -> None:
    raise AssertionError(f"held by {owner}")


def refused(owner: str) -> None:
    raise StoreError(f"held by {owner}")


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder, until it is killed."""
    held = PROCESSES.Event()
    process = PROCESSES.Process(target=holding, args=(tmp_path, held))
    process.start()
    try:
        assert held.wait(120)
        yield process
    finally:
        process.kill()
        process.join()


def test_nothing_is_left_of_it(tmp_path):
    with locked(tmp_path / "index", nobody):
        said = json.loads((tmp_path / "index/headwater-lock.json").read_text())
        assert said["pid"] == os.getpid() and said["host"]
    assert list(tmp_path.iterdir()) == []  # a folder that stays empty goes too
    with locked(tmp_path / "index", nobody):
        (tmp_path / "index/file").write_text("stays")
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["file"]


def test_who_holds_it_is_named(tmp_path, holder):
    with pytest.raises(StoreError, match=rf"held by process {holder.pid} on "):
        with locked(tmp_path, refused):
            pass
    assert (tmp_path / "headwater-lock").exists()


@pytest.mark.parametrize("said", ["", "{", "[1]", '{"pid": "x", "host": 1}', None])
def test_whoever_it_is(tmp_path, holder, said):
    (tmp_path / "headwater-lock.json").unlink()
    if said is not None:
        (tmp_path / "headwater-lock.json").write_text(said)
    with pytest.raises(StoreError, match="held by another process"):
        with locked(tmp_path, refused):
            pass


def test_a_lock_goes_with_its_process(tmp_path, holder):
    holder.kill()
    holder.join()
    assert (tmp_path / "headwater-lock").exists()  # it had no time to tidy up
    with locked(tmp_path, nobody):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_waits_goes_on_when_it_is_free(tmp_path):
    owners, entered = [], threading.Event()

    def wait() -> None:
        with locked(tmp_path, owners.append):
            entered.set()

    with locked(tmp_path, nobody):
        thread = threading.Thread(target=wait)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(30)
    assert entered.is_set() and owners == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_a_folder_that_cannot_be_written_to_is_not_locked(tmp_path, monkeypatch):
    """Nothing can happen to it; what must be written fails by itself."""

    def fails(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FileLock, "acquire", fails)
    with locked(tmp_path, nobody):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        with locked(tmp_path / "file" / "index", nobody):
            pass


def test_an_index_is_begun_by_one_at_a_time(tmp_path, tiny_model, tiny_images, holder):
    """The same build waits, another is refused with the first difference."""
    from headwater import Denoiser, build_index, load_dataset
    from headwater.errors import MismatchError

    def build(folder: Path, note=print, **options):
        return build_index(
            Denoiser.load(tiny_model), load_dataset(tiny_images), folder,
            method="trak", timesteps=1, dim=16, note=note, **options,
        )  # fmt: skip

    build(tmp_path / "elsewhere")
    manifest = (tmp_path / "elsewhere/index.json").read_text()
    (tmp_path / "index.json").write_text(manifest)
    with pytest.raises(MismatchError, match="begun with recipe seed = 0, this run has 7: use"):
        build(tmp_path, seed=7)
    with pytest.raises(MismatchError, match=rf"written by process {holder.pid} on .*--overwrite"):
        build(tmp_path, overwrite=True)
    (tmp_path / "index.json").unlink()
    (tmp_path / "elsewhere").rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))

    def note(line: str) -> None:
        if line.startswith("waiting for"):
            said.append(line)
            holder.kill()

    said: list[str] = []
    assert len(build(tmp_path, note)) == 20
    assert said == [f"waiting for process {holder.pid} on {os.uname().nodename}"]
