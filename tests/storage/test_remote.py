"""What lies at a URL is on this machine once, and again where it has changed."""

import time

import pytest
from support.command_line import assert_refused
from support.command_line import headwater as run
from support.disks import READ_ONLY, read_only
from support.object_store import bucket

from headwater.errors import HeadwaterWarning, ResourceError, StoreError
from headwater.storage import remote
from headwater.storage.remote import fetch, here, hub_place, is_remote


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def memory(memory):
    memory.pipe({"/things/a.txt": b"one", "/things/b/c.txt": b"two"})
    return memory


def test_urls():
    assert all(map(is_remote, ["s3://b/x", "hf://datasets/a/b", "memory://x", "file:///x"]))
    assert not any(map(is_remote, ["a/b", "/a:b", "C:\\x", "scenes:validation", "name/theirs"]))
    assert here("a/b") == "a/b"
    assert hub_place("hf://datasets/a/b/c/d") == ("a/b", "c/d", None)
    assert hub_place("hf://a/b") == ("a/b", "", None)


def copied(monkeypatch):
    """How many files are copied at each call."""
    counts, copy = [], remote._copy

    def counted(files, names, to):
        counts.append(len(names))
        copy(files, names, to)

    monkeypatch.setattr(remote, "_copy", counted)
    return counts


def test_a_folder_is_copied_once_and_what_has_changed_again(memory, monkeypatch):
    counts = copied(monkeypatch)
    folder = fetch("memory://things")
    assert (folder / "a.txt").read_bytes() == b"one"
    assert (folder / "b" / "c.txt").read_bytes() == b"two"
    assert fetch("memory://things") == folder and counts == [2]
    time.sleep(0.01)
    memory.pipe("/things/a.txt", b"uno")  # of the same size
    (folder / "b" / "c.txt").write_bytes(b"damaged")
    fetch("memory://things")
    assert (folder / "a.txt").read_bytes() == b"uno"
    assert (folder / "b" / "c.txt").read_bytes() == b"two"
    assert counts == [2, 2]


def test_what_is_gone_there_is_gone_here_and_what_was_made_here_stays(memory):
    folder = fetch("memory://things")
    (folder / "own.txt").write_bytes(b"made here")
    memory.rm("/things/a.txt")
    fetch("memory://things")
    assert sorted(path.name for path in folder.rglob("*.txt")) == ["c.txt", "own.txt"]


def test_what_a_stranger_keeps_of_questions_is_left_there(memory):
    """Of an index and its checkpoints; a picture in a folder of such a name is one."""
    names = ["kernels/0.safetensors", "kernels/parts/0.safetensors", "similarity/0.safetensors"]
    names += ["queries/0.safetensors", "checkpoints/0/queries/0.safetensors"]
    memory.pipe({f"/things/{name}": b"wrong" for name in [*names, "queries/1.png"]})
    folder = fetch("memory://things")
    found = sorted(path.name for path in folder.rglob("*") if path.is_file())
    assert found == ["1.png", "a.txt", "c.txt"]


@pytest.mark.parametrize("url", ["memory://things", "memory://things/a.txt"])
def test_a_copy_serves_where_nothing_is_reached(memory, monkeypatch, url):
    copy = fetch(url)

    def unreachable(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(type(memory), "find", unreachable)
    with pytest.warns(
        HeadwaterWarning, match=rf"cannot reach {url} \(OSError: no network\): using"
    ):
        assert fetch(url) == copy
    (copy / "a.txt" if copy.is_dir() else copy).unlink()  # a part of it is gone
    with pytest.raises(StoreError, match=f"cannot reach {url}"):
        fetch(url)


def test_one_file(memory):
    assert fetch("memory://things/a.txt").read_bytes() == b"one"


def test_a_copy_that_was_interrupted_goes_on(memory, monkeypatch):
    monkeypatch.setattr(remote, "_AT_ONCE", 1)
    counts, copy = [], remote._copy

    def once(*args):
        if counts:
            raise OSError("the line is cut")
        counts.append(copy(*args))

    monkeypatch.setattr(remote, "_copy", once)
    with pytest.raises(StoreError, match="the line is cut"):
        fetch("memory://things")
    monkeypatch.setattr(remote, "_copy", copy)
    again = copied(monkeypatch)
    assert len(list(fetch("memory://things").rglob("*.txt"))) == 2
    assert again == [1]


@pytest.mark.parametrize("name", ["/things/../out.txt", "/things/a\\b", "/things/c:/x"])
def test_names_that_lead_elsewhere_are_refused(memory, monkeypatch, name):
    found = {name: {"size": 1, "type": "file"}}
    monkeypatch.setattr(type(memory), "find", lambda *args, **kwargs: found)
    with pytest.raises(StoreError, match="is no name of a file"):
        fetch("memory://things")


@pytest.mark.parametrize(
    "url, said",
    [
        ("memory://nothing", "there is nothing at memory://nothing"),
        ("nowhere://x", "cannot reach nowhere://x .*Protocol not known"),
        ("hf://datasets/x", "name a repository"),
    ],
)
def test_what_cannot_be_reached_is_said_in_one_line(url, said):
    with pytest.raises(StoreError, match=said) as error:
        fetch(url)
    assert "\n" not in str(error.value)


def test_a_full_disk(memory, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remote, "_copy", full)
    with pytest.raises(ResourceError, match="HEADWATER_CACHE"):
        fetch("memory://things")


@pytest.mark.parametrize("copied_before", [False, True])
def test_a_disk_of_copies_that_refuses(memory, monkeypatch, tmp_path, copied_before):
    """The address is right, and there are no keys to check."""
    if copied_before:
        fetch("memory://things")
    with monkeypatch.context() as patch:
        read_only(patch, tmp_path / "cache")
        with pytest.raises(StoreError, match=rf"HEADWATER_CACHE.*memory://things.*{READ_ONLY}"):
            fetch("memory://things")
    monkeypatch.setenv("HEADWATER_CACHE", __file__)
    with pytest.raises(StoreError, match=r"HEADWATER_CACHE.*: name another folder"):
        fetch("memory://things")


def test_a_place_that_refuses_to_be_read(memory, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Access Denied", "/things/a.txt")

    monkeypatch.setattr(type(memory), "find", refused)
    with pytest.raises(StoreError, match="check the address and your keys"):
        fetch("memory://things")


def test_a_package_that_is_missing(monkeypatch):
    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote, "file_system", missing)
    with pytest.raises(StoreError, match="needs a package that is not installed: Install s3fs"):
        fetch("s3://bucket/x")


def test_commands_say_it_too():
    assert_refused(run("info", "memory://nothing"), "there is nothing at memory://nothing")
    assert_refused(run("index", "scenes", "scenes", "s3://bucket/x"), "s3://bucket/x is on no disk")


@pytest.fixture(scope="module")
def s3():
    with bucket() as files:
        yield files


def test_an_object_store(s3, monkeypatch):
    counts = copied(monkeypatch)
    s3.pipe({f"bucket/some/{n}/{n}.txt": b"x" * n for n in range(1, 6)})
    folder = fetch("s3://bucket/some")
    assert sorted(path.stat().st_size for path in folder.rglob("*.txt")) == [1, 2, 3, 4, 5]
    s3.pipe("bucket/some/3/3.txt", b"yyy")
    s3.invalidate_cache()
    fetch("s3://bucket/some")
    assert (folder / "3" / "3.txt").read_bytes() == b"yyy"
    assert counts == [5, 1]
    with pytest.raises(StoreError, match="nothing at s3://bucket/none"):
        fetch("s3://bucket/none")
