"""Several builders of one index: none does what another does, and the index is as of one."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch
from support.command_line import FAST, assert_refused
from support.command_line import headwater as run
from support.index_files import files, rewrite_manifest, rows
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, build_index, build_shard, load_dataset
from headwater.errors import MismatchError, ParameterError
from headwater.index.building import workers
from headwater.index.curvature import fit as fit_module
from headwater.index.curvature import fitting
from headwater.runtime.launch import Rank, own_device, own_rank
from headwater.storage.claims import builders, building, claimed
from headwater.storage.manifest import read_manifest
from headwater.storage.shards import shard_name

ROWS = 130
# Of what is quickly made: who makes it is what matters here.
STEADY = {"method": "trak", "timesteps": 1, "dim": 64, "batch_size": 64}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("joint") / "images", ROWS)  # three shards


@pytest.fixture(scope="module")
def alone(tmp_path_factory, models, images) -> Path:
    folder = tmp_path_factory.mktemp("joint") / "index"
    return build_index(models[0], load_dataset(images), folder, **STEADY).path


@pytest.fixture(scope="module")
def models(tiny_model) -> list[Denoiser]:
    """Loaded one after the other: diffusers does not load two in two threads."""
    return [Denoiser.load(tiny_model) for _ in range(2)]


@pytest.fixture
def build(tmp_path, models, images):
    """Build the index in `tmp_path / "index"`; each builder with a model of its own."""
    free = iter(models * 4)

    def build(**options):
        data = load_dataset(images)
        return build_index(next(free), data, tmp_path / "index", **(STEADY | options))

    return build


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """First rows of the shards that are computed."""
    found: list[int] = []
    real = workers.shard_rows

    def shard_rows(source, rows, *others):
        found.append(rows.start)
        return real(source, rows, *others)

    monkeypatch.setattr(workers, "shard_rows", shard_rows)
    return found


def test_two_share_the_shards(tmp_path, build, alone, monkeypatch, computed):
    """They begin together, each holding a shard: the third is done by one of them."""
    both, real = Barrier(2, timeout=60), workers.shard_rows

    def shard_rows(source, rows, *others):
        if len(computed) < 2:
            both.wait()
        return real(source, rows, *others)

    monkeypatch.setattr(workers, "shard_rows", shard_rows)
    with ThreadPoolExecutor(2) as threads:
        indexes = list(threads.map(lambda _: build(), range(2)))
    assert sorted(computed) == [0, 64, 128] and {len(index) for index in indexes} == {ROWS}
    assert files(tmp_path / "index") == files(alone)


@pytest.mark.parametrize("written", [False, True], ids=["not done", "done"])
def test_what_another_is_at_is_waited_for(tmp_path, build, alone, computed, written):
    """Where that one dies, its shard is computed after all."""
    out, said = tmp_path / "index", []
    with ThreadPoolExecutor(1) as thread:
        with building(out), claimed(out, "00001", wait=False) as mine:
            assert mine
            built = thread.submit(build, note=said.append)
            while len(list(out.glob("features/*.json"))) < 2:
                assert not built.done()
            if written:
                copy_shard(alone, out, 1)
        assert len(built.result(60)) == ROWS
    assert computed == ([0, 128] if written else [0, 128, 64])
    assert any("joining process" in line for line in said)
    assert files(out) == files(alone)


def copy_shard(whole: Path, out: Path, number: int) -> None:
    """As another builder would leave it, with its note."""
    from headwater.storage.shards import write_note

    shutil.copy(whole / shard_name(number), out / shard_name(number))
    write_note(out, read_manifest(out), read_manifest(whole).shards[number])


def test_parts_of_a_curvature_are_shared(tmp_path, models, images, monkeypatch):
    monkeypatch.setattr(fit_module, "PART_IMAGES", 10)
    parts, real = [], fitting._compute_part
    denoiser, data = models[0], load_dataset(images).first(40)

    def compute(fit, images, batch, skip_bad, part):
        parts.append(part)
        real(fit, images, batch, skip_bad, part)

    monkeypatch.setattr(fitting, "_compute_part", compute)
    out, options = tmp_path / "index", {**STEADY, "method": "ekfac"}
    one = build_index(denoiser, data, tmp_path / "alone", **options).path
    expected, parts[:] = sorted(parts), []
    with ThreadPoolExecutor(1) as thread:
        with building(out), claimed(out, "factors-2", wait=False):
            built = thread.submit(build_index, denoiser, data, out, **options)
            while len(parts) < 3:
                assert not built.done()
            assert not (out / "curvature/bases.safetensors").exists()
        built.result(60)
    assert sorted(parts) == expected and parts[3] == ("factors", 2)
    assert files(out).keys() == files(one).keys()


# --- parts of array jobs --------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_array_jobs_in_any_order(tmp_path, models, images, alone, computed, order):
    said: list[str] = []
    found = [
        build_shard(
            models[part], load_dataset(images), tmp_path / "index", (part, 2),
            note=said.append, **STEADY,
        )
        for part in order
    ]  # fmt: skip
    last = found.pop()
    assert found == [None] and last is not None and len(last) == ROWS
    assert f"{1 + order[0]} of 3 shards are left to others" in said
    assert computed == ([0, 128, 64] if order == (0, 1) else [64, 0, 128])
    assert files(tmp_path / "index") == files(alone)


def test_array_jobs_fit_one_curvature(tmp_path, models, images):
    """As an index has where no method is named: whichever comes first passes over all images."""
    data, out = load_dataset(images).first(66), tmp_path / "index"
    options = {name: value for name, value in STEADY.items() if name != "method"}
    alone = build_index(models[0], data, tmp_path / "alone", **options).path
    assert build_shard(models[1], data, out, (1, 2), **options) is None
    assert (out / "curvature/moments.safetensors").exists()
    index = build_shard(models[0], data, out, (0, 2), **options)
    assert index is not None and index.recipe.method == "ekfac-presence"
    assert files(out).keys() == files(alone).keys() and torch.equal(rows(out), rows(alone))


def test_array_jobs_of_checkpoints(tmp_path, models, images):
    other = tiny_pipeline(tmp_path / "other", seed=1)
    out, more = tmp_path / "index", {**STEADY, "checkpoints": [other]}
    denoiser, data = models[0], load_dataset(images)
    assert build_shard(denoiser, data, out, (1, 2), **more) is None
    index = build_shard(denoiser, data, out, (0, 2), **more)
    assert index is not None and [len(each) for each in (index, *index.checkpoints)] == [ROWS, ROWS]


def test_the_command(tmp_path, tiny_model, tiny_images):
    out = tmp_path / "index"
    command = ("index", tiny_model, tiny_images, out, *FAST)
    first = run(*command, "--shard", "1/2")
    assert (first.code, first.out) == (0, f"this part of {out} is done\n")
    assert "1 of 1 shards are left to others" in first.err
    assert run(*command, "--shard", "0/2").out == f"20 rows of 64 features in {out}\n"
    for wrong, said in {
        "4/4": "--shard 4/4 is none of 4, counted from 0",
        "1": "--shard '1' must be I/N, such as 0/4",
        "-1/2": "--shard '-1/2' must be I/N",
        "0/0": "--shard 0/0 is none of 0",
    }.items():
        assert_refused(run(*command, f"--shard={wrong}"), said)
    assert_refused(run(*command, "--shard", "0/2", "--overwrite"), "remove the folder first")


# --- who is refused -------------------------------------------------------------------------------


def test_what_is_built_is_not_overwritten(tmp_path, build):
    build()
    with building(tmp_path / "index"):
        with pytest.raises(MismatchError, match=r"is being written by process .* --overwrite"):
            build(overwrite=True)
        with pytest.raises(MismatchError, match="begun with recipe seed = 0, this run has 7"):
            build(seed=7)
    with building(tmp_path / "index" / "checkpoints" / "0"):
        with pytest.raises(MismatchError, match=r"is being written by process .* --overwrite"):
            build(overwrite=True)
    shutil.rmtree(tmp_path / "index" / "checkpoints")
    assert len(build(overwrite=True)) == ROWS  # nobody is there any more


def test_an_index_that_is_begun_anew_is_left_alone(tmp_path, build, monkeypatch):
    """As by hand, between two shards; a builder that is there keeps others from it."""
    real = workers.shard_rows

    def shard_rows(source, rows, *others):
        made = real(source, rows, *others)
        recipe = read_manifest(tmp_path / "index").recipe
        rewrite_manifest(tmp_path / "index", recipe={**recipe, "seed": 7})
        return made

    monkeypatch.setattr(workers, "shard_rows", shard_rows)
    with pytest.raises(MismatchError, match="was begun anew by another process, as another index"):
        build()


@pytest.mark.parametrize("others", [False, True])
def test_a_builder_that_fails_leaves_the_index_to_others(tmp_path, build, monkeypatch, others):
    out = tmp_path / "index"

    def fails(*args):
        raise ParameterError("no")

    monkeypatch.setattr(workers, "shard_rows", fails)
    with building(out) if others else pytest.MonkeyPatch.context():
        with pytest.raises(ParameterError, match="no"):
            build()
        assert (out / "index.json").exists() == others
    assert others or not out.exists()


def test_an_index_that_is_done_holds_no_claim(tmp_path, build, monkeypatch):
    """Of a builder that was killed while this one was at it."""
    real = workers.shard_rows

    def shard_rows(source, rows, *others):
        (tmp_path / "index/claims/process 1 on there, 0.lock").write_text("")
        return real(source, rows, *others)

    monkeypatch.setattr(workers, "shard_rows", shard_rows)
    build()
    assert not (tmp_path / "index/claims").exists()


def test_what_dead_builders_left_goes(tmp_path):
    folder = tmp_path / "claims"
    folder.mkdir()
    for name in ("process 1 on there, 0.lock", "00003.lock"):
        (folder / name).write_text("")
    assert builders(tmp_path) == [] and not folder.exists()
    with claimed(tmp_path, "00003", wait=False):
        assert builders(tmp_path) == ["a worker"]
        with claimed(tmp_path, "00003", wait=False) as mine:
            assert not mine


# --- launchers ------------------------------------------------------------------------------------


def test_ranks(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert own_rank() == Rank(0, 0, 1)
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert own_rank() == Rank(5, 1, 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert own_device(Rank(5, 1, 8), None) == own_device(Rank(5, 1, 8), "cuda") == "cuda:1"
    assert own_device(Rank(5, 1, 8), "cpu") == "cpu" and own_device(Rank(), "cuda") == "cuda"
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ParameterError, match=r"RANK, LOCAL_RANK, WORLD_SIZE = 'first', '1', '8'"):
        own_rank()


def test_the_first_of_several_speaks(tmp_path, tiny_model, tiny_images, monkeypatch):
    command = ("index", tiny_model, tiny_images, tmp_path / "index", *FAST)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    silent = run(*command)
    assert (silent.code, silent.out, silent.err) == (0, "", "")
    assert_refused(run(*command, "--overwrite"), "would remove what the others write")
    monkeypatch.setenv("RANK", "0")
    assert run(*command).out.startswith("20 rows of 64 features in ")


def launched(*command: object) -> subprocess.CompletedProcess[str]:
    """By a launcher that is the real one."""
    words = [sys.executable, "-m", *map(str, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


def test_accelerate_says_what_is_read(tmp_path):
    """With next to nothing to run."""
    script = tmp_path / "script.py"
    script.write_text("""
import sys
from pathlib import Path
from headwater.runtime.launch import own_rank
Path(sys.argv[1], " ".join(map(str, own_rank()))).touch()
""")
    (tmp_path / "ranks").mkdir()
    launch = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", 2)
    options = ("--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
               "--main_process_port", 0)  # fmt: skip
    done = launched(*launch, *options, script, tmp_path / "ranks")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "ranks").iterdir()) == ["0 0 2", "1 1 2"]


def test_processes_of_torchrun_build_one_index(tmp_path, tiny_model, images, alone):
    """Of which the first speaks: to the bit that of one process."""
    out = tmp_path / "index"
    options = ("--method", "trak", "--timesteps", 1, "--dim", 64, "--batch-size", 64)
    command = ("headwater", "index", tiny_model, images, out, *options, "--device", "cpu")
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m")
    done = launched(*launch, *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{ROWS} rows of 64 features in {out}\n"
    assert done.stderr.count(" is taken, ") == 1
    assert index_facts(out) == index_facts(alone)


def index_facts(folder: Path):
    """All that an index holds: both are of one thread."""
    manifest = read_manifest(folder)
    return replace(manifest, model={}, data={}), (folder / "samples.parquet").read_bytes()
