"""Workers: the same results wherever they are; errors by name; the dead replaced, or reported.

All that asks for the cluster of tests stands here, so that it is made once: each worker on it
imports everything anew.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from support.index_files import DIM, eleven_shards, rows
from support.object_store import bucket
from support.studies import data as pictures  # noqa: F401 - a fixture
from support.studies import study
from support.work import dying, refusing, shares, squares

from headwater import Denoiser, Session, build_index, load_dataset
from headwater.attribution import passes
from headwater.errors import ParameterError, QueryError, ResourceError
from headwater.evaluation.retraining.retrain import Task, retrain, retrain_all
from headwater.index.building import begin
from headwater.runtime.executor import THIS_PROCESS, Executor, run, workers_beside
from headwater.upkeep.remove import remove

TWO = Executor(jobs=2)
ON_RAY = Executor("ray", 5)  # more than there is room for: two come

everywhere = pytest.mark.parametrize("executor", [TWO, ON_RAY], ids=["processes", "ray"])
# Where each worker loads what takes seconds, the cluster has one.
as_few = pytest.mark.parametrize("executor", [TWO, Executor("ray")], ids=["processes", "ray"])


@pytest.fixture(autouse=True)
def _with_its_cluster(request) -> None:
    if "executor" in request.fixturenames and request.getfixturevalue("executor") != TWO:
        request.getfixturevalue("cluster")


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory):
    """An object store, of which the cluster is told: it begins after this."""
    if not all(map(importlib.util.find_spec, ("s3fs", "moto"))):
        yield None
        return
    with pytest.MonkeyPatch.context() as patch, bucket() as files:
        patch.setenv("HEADWATER_CACHE", str(tmp_path_factory.mktemp("copies")))
        yield files


# --- any work -------------------------------------------------------------------------------------


def test_this_process_loads_nothing_before_there_is_work(tmp_path):
    assert list(run(THIS_PROCESS, partial(squares, tmp_path), [])) == []
    assert not list(tmp_path.iterdir())
    found = list(run(THIS_PROCESS, partial(squares, tmp_path), range(3)))
    assert [each[:2] for each in found] == [(i * i, os.getpid()) for i in range(3)]
    assert len(list(tmp_path.iterdir())) == 1


def test_where_nothing_is_to_do_nothing_begins(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for executor in (THIS_PROCESS, TWO, ON_RAY):
        assert list(run(executor, squares, [])) == []


@everywhere
def test_workers_load_once_and_give_the_same(tmp_path, executor):
    found = list(run(executor, partial(squares, tmp_path), range(8)))
    assert sorted(each[0] for each in found) == [i * i for i in range(8)]
    workers = {each[1] for each in found}
    assert os.getpid() not in workers and 1 <= len(workers) <= 2
    assert {f"started-{each}" for each in workers} <= {path.name for path in tmp_path.iterdir()}
    assert {each[2] for each in found} == {1}  # thread
    assert {each[3] for each in found} == {str(Path.cwd())}


@everywhere
def test_an_error_in_a_worker_is_that_error_and_what_has_not_begun_does_not(tmp_path, executor):
    with pytest.raises(QueryError, match=r"^one is none$"):
        list(run(executor, partial(refusing, tmp_path), range(12)))
    there = {path.name for path in tmp_path.iterdir()}
    time.sleep(1)
    assert {path.name for path in tmp_path.iterdir()} == there
    begun = {name[6:] for name in there if name.startswith("begun")}
    assert {"0", "1"} <= begun and len(begun) < 6
    if executor == TWO:  # what has begun is ended
        assert {f"ended-{item}" for item in begun - {"1"}} <= there


def test_a_process_that_dies_is_reported(tmp_path):
    with pytest.raises(ResourceError, match=r"a worker died .* finished work is kept"):
        list(run(TWO, partial(dying, tmp_path, {1: 1}), range(4)))


def test_ray_replaces_a_worker_that_dies_but_not_for_ever(tmp_path, cluster, monkeypatch):
    monkeypatch.setattr("headwater.runtime.ray.TRIES", 2)
    found = run(Executor("ray"), partial(dying, tmp_path, {1: 1, 2: 99}), range(4))
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ResourceError, match="a worker died"):
        next(found)
    assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {
        "deaths-1": 1,
        "deaths-2": 2,
    }


def test_workers_know_how_many_share_their_memory(cluster):
    two = Executor("ray", 2)
    assert list(run(two, partial(shares, two), ["cuda", "cuda"], "cuda")) == [2, 2]
    assert workers_beside(TWO, "cpu") == min(2, os.cpu_count() or 1)


def test_a_cluster_that_is_not_there(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://nowhere:1")
    with pytest.raises(ResourceError, match="no Ray cluster at 'ray://nowhere:1'"):
        list(run(ON_RAY, squares, [1]))


def test_a_cluster_that_does_not_begin(monkeypatch):
    ray = pytest.importorskip("ray")

    def init(*_, **__):
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=r"no Ray cluster at 'local' \(The current node timed"):
        list(run(ON_RAY, squares, [1]))


def test_ray_workers_that_cannot_begin(cluster, monkeypatch):
    """As where a node lacks the package: here the folder is not there."""
    monkeypatch.setattr("headwater.runtime.ray.Path.cwd", lambda: Path("/nowhere"))
    with pytest.raises(ResourceError, match=r"no worker begins .*/nowhere.*: install the same"):
        list(run(Executor("ray"), squares, [1]))


def test_what_an_engine_cannot_be(monkeypatch):
    with pytest.raises(ParameterError, match="--engine 'spark' is not one of local, ray"):
        Executor("spark")
    with pytest.raises(ParameterError, match="--jobs 0 must be at least 1"):
        Executor(jobs=0)
    if importlib.util.find_spec("ray"):
        with pytest.raises(ParameterError, match="say cuda, Ray chooses which"):
            list(run(ON_RAY, squares, [1], "cuda:1"))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ParameterError, match=r"pip install 'headwater\[ray\]'"):
        list(run(ON_RAY, squares, [1]))


# --- a study --------------------------------------------------------------------------------------


@as_few
def test_workers_train_the_same_models(tmp_path, pictures, executor):  # noqa: F811
    tasks = [Task("one", (0, 1, 2)), Task("two", (3, 4, 5), seed=1)]
    one = retrain(study(tmp_path / "alone", pictures), tasks)
    studies = [study(tmp_path / name, pictures) for name in ("together", "apart")]
    assert retrain_all([(each, tasks) for each in studies], executor) == [one, one]


# --- rows of an index -----------------------------------------------------------------------------


@as_few
def test_workers_read_the_same_rows(tmp_path, tiny_model, tiny_images, executor, monkeypatch):
    """The matrix and scores, of rows of which some were removed, in parts of three shards."""
    monkeypatch.setattr(passes, "ROWS_A_FEATURE", 3)
    index = eleven_shards(tmp_path, tiny_model, tiny_images)
    remove(index, [f"{row:03d}" for row in (3, 17, 64, 69, *range(80, 90))])
    shutil.copytree(index, tmp_path / "many")
    one = Session.open(index).kernel()
    many = Session.open(tmp_path / "many", executor).kernel()
    psi = torch.randn(2, DIM)
    torch.testing.assert_close(many.gram().matrix, one.gram().matrix, rtol=1e-12, atol=1e-13)
    close = dict(rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many.trak(psi, [0.1]), one.trak(psi, [0.1]), **close)


def test_actors_build_of_images_in_an_object_store(
    tmp_path, cluster, store, tiny_model, tiny_images, monkeypatch
):
    """Each opens them there, by what the manifest says, and rows are those of the folder here."""
    if store is None:
        pytest.skip("needs s3fs and moto")
    monkeypatch.setattr(begin, "default_shard_rows", lambda rows: 5)  # four shards
    store.put(str(tiny_images), "bucket/images", recursive=True)
    options = dict(method="trak", timesteps=1, dim=DIM, batch_size=5, parameters="attn2-kv")
    denoiser, there = Denoiser.load(tiny_model, "cpu"), load_dataset("s3://bucket/images")
    one = build_index(denoiser, load_dataset(tiny_images), tmp_path / "one", **options)
    two = build_index(denoiser, there, tmp_path / "two", executor=Executor("ray", 2), **options)
    assert two.manifest.data["source"] == "s3://bucket/images" and len(two.manifest.shards) == 4
    assert two.fingerprint == one.fingerprint and torch.equal(rows(two.path), rows(one.path))


# --- what is left behind --------------------------------------------------------------------------

KILLED = """
import os, sys
from functools import partial
from pathlib import Path

from support.processes import orphans

from headwater.runtime.executor import Executor, run

if __name__ == "__main__":
    list(run(Executor(jobs=2), partial(orphans, Path(sys.argv[1])), range(2)))
"""


def test_workers_end_with_the_process_that_they_work_for(tmp_path):
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    (tmp_path / "out").mkdir()
    command = [sys.executable, str(script), str(tmp_path / "out")]
    killed = subprocess.run(command, env=env, capture_output=True, timeout=300)
    # Its pipes close when the last worker is gone, long before the work would have ended.
    assert killed.returncode == -signal.SIGKILL and not list((tmp_path / "out").iterdir())
