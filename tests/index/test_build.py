"""Building an index: killed and resumed, refused, mended, short of memory or disk."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from support.command_line import FAST, assert_refused
from support.command_line import headwater as run
from support.index_files import RECIPE, files, rows, state
from support.processes import in_a_process, killed_at_its_third_shard
from support.tiny import tiny_folder, tiny_pipeline, tiny_unconditional

from headwater import Session
from headwater.data.sources import load_dataset
from headwater.data.training_set import IN_MEMORY
from headwater.errors import (
    BadImageError,
    DatasetError,
    HeadwaterWarning,
    MismatchError,
    ModelError,
    NonFiniteError,
    ResourceError,
    StoreError,
)
from headwater.features.batch import Rows
from headwater.index import build as building
from headwater.index import estimate as estimating
from headwater.index import rows as row_making
from headwater.index.build import build_index
from headwater.index.building import one_model
from headwater.index.config import plan, planned_of_all
from headwater.index.curvature import fit as fitted
from headwater.index.curvature.fit import images_of_fit
from headwater.index.estimate import estimate
from headwater.index.index import Index
from headwater.index.rows import require_finite
from headwater.models.denoiser import Denoiser
from headwater.runtime import batch_size as batching
from headwater.runtime.batch_size import BatchSize
from headwater.storage import blocks, shards
from headwater.storage.manifest import Manifest, read_manifest, write_manifest

SHARDS = 4  # of 64 rows


@pytest.fixture(scope="module")
def many_images(tmp_path_factory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("many") / "images", 64 * SHARDS - 9)


@pytest.fixture(scope="module")
def denoiser(tiny_model) -> Denoiser:
    return Denoiser.load(tiny_model)


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory, denoiser, many_images) -> Path:
    folder = tmp_path_factory.mktemp("built") / "index"
    build_index(denoiser, load_dataset(many_images), folder, **RECIPE)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory, denoiser, tiny_images) -> Path:
    """A finished index of 20 rows; copy it before changing it."""
    folder = tmp_path_factory.mktemp("built") / "small"
    build_index(denoiser, load_dataset(tiny_images), folder, **RECIPE)
    return folder


@pytest.fixture
def index(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "index"))


# --- killed, and gone on with -------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory, tiny_model, many_images) -> Path:
    """What `headwater index` leaves that was killed with two of four shards written."""
    folder = tmp_path_factory.mktemp("killed") / "index"
    options = [str(part) for name, value in RECIPE.items() for part in (f"--{name}", value)]
    run = in_a_process(
        killed_at_its_third_shard, "index", tiny_model, many_images, folder, *options
    )
    assert run.code == -signal.SIGKILL, run.err
    return folder


@pytest.mark.parametrize("batch_size", [None, 7])
def test_killed_and_resumed(tmp_path, killed, in_one_go, denoiser, many_images, batch_size):
    folder = shutil.copytree(killed, tmp_path / "index")
    assert {path.name for path in (folder / "features").iterdir() if path.suffix == ".part"}
    before, notes = state(folder), []
    with pytest.raises(StoreError, match="unfinished"):
        Index.open(folder)
    built = build_index(
        denoiser,
        load_dataset(many_images),
        folder,
        batch_size=batch_size,
        note=notes.append,
        **RECIPE,
    )
    assert notes[1] == f"resuming: 2 of {SHARDS} shards are there"  # after what is taken
    after = state(folder)
    for number in range(2):
        path = folder / f"features/0000{number}.safetensors"
        assert after[path] == before[path]
    assert set(files(folder)) == set(files(in_one_go))
    assert len(built) == len(load_dataset(many_images)) == 64 * SHARDS - 9
    if batch_size is None:
        assert files(folder) == files(in_one_go)
    else:  # matrix products of another size round differently
        torch.testing.assert_close(rows(folder), rows(in_one_go), rtol=2e-3, atol=1e-4)
        samples = "samples.parquet"
        assert (folder / samples).read_bytes() == (in_one_go / samples).read_bytes()


class Killed(BaseException):
    """Stands for a kill wherever it is raised: nothing may catch it."""


@pytest.mark.parametrize("call", range(6))
def test_stopped_at_any_write_and_resumed(
    tmp_path, in_one_go, denoiser, many_images, call, monkeypatch
):
    data, folder, calls = load_dataset(many_images), tmp_path / "index", []
    homes = {"write_shard": shards, "write_samples": one_model, "finish": one_model}
    real = {name: getattr(home, name) for name, home in homes.items()}

    def stop(name: str):
        def write(*args):
            calls.append(name)
            if len(calls) == call + 1:
                raise Killed
            return real[name](*args)

        return write

    # The numbers are those of the index built in one go: what is tested is what gets written.
    position = {sample.id: row for row, sample in enumerate(data.samples)}
    stored = rows(in_one_go)
    monkeypatch.setattr(
        row_making,
        "rows_of",
        lambda source, images: Rows(stored[[position[data.samples[row].id] for row in images]]),
    )
    with monkeypatch.context() as patch:
        for name in real:
            patch.setattr(homes[name], name, stop(name))
        with pytest.raises(Killed):
            build_index(denoiser, data, folder, **RECIPE)
    expected = [*["write_shard"] * SHARDS, "write_samples", "finish"][: call + 1]
    assert calls == expected
    if call == 0:
        assert not folder.exists()  # nothing was finished, so nothing is left
    else:
        assert not read_manifest(folder).complete
    build_index(denoiser, data, folder, **RECIPE)
    assert read_manifest(folder).complete
    torch.testing.assert_close(rows(folder), stored, rtol=1e-3, atol=0)


def test_what_a_kill_left_of_kept_encodings_goes(tmp_path, denoiser, tiny_images):
    data, how = load_dataset(tiny_images).first(2), {**RECIPE, "encodings": tmp_path / "kept"}
    build_index(denoiser, data, tmp_path / "one", **how)
    whole = sorted((tmp_path / "kept").rglob("*.*"))
    left = whole[0].with_name(f"{whole[0].name}.0123456789ab.part")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    build_index(denoiser, data, tmp_path / "two", **how)
    assert sorted((tmp_path / "kept").rglob("*.*")) == whole


def test_nothing_is_done_twice(index, denoiser, tiny_images):
    before = state(index)
    build_index(denoiser, load_dataset(tiny_images), index, **RECIPE)
    assert state(index) == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "unlink"])
def test_a_damaged_shard_is_rebuilt(tmp_path, in_one_go, denoiser, many_images, damage):
    folder = shutil.copytree(in_one_go, tmp_path / "index")
    shard = folder / "features/00001.safetensors"
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[-100] ^= 1
        shard.write_bytes(data)
    elif damage == "truncate":
        shard.write_bytes(data[:-1])
    else:
        shard.unlink()
    before = state(folder)
    with pytest.raises(StoreError, match=r"00001\.safetensors"):
        rows(folder)
    build_index(denoiser, load_dataset(many_images), folder, **RECIPE)
    assert files(folder) == files(in_one_go)
    others = folder / "features/00000.safetensors"
    assert state(folder)[others] == before[others]


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"seed": 1}, "recipe seed = 0, this run has 1"),
        ({"dim": 65}, "recipe dim = 64, this run has 65"),
        ({"method": "concept-trak-a"}, "recipe normalise = probe, .* has none"),
        ({"parameters": "attn2-kv"}, "recipe layers = "),
        ({"timesteps": 3}, r"recipe timesteps = \[499, 999\], this run has \[332, 665, 999\]"),
        ({"seed": 1, "dim": 65}, "recipe dim"),
    ],
)
def test_another_recipe_is_refused(index, denoiser, tiny_images, changes, said):
    before = state(index)
    with pytest.raises(MismatchError, match=f"{said}.*use another folder, or --overwrite"):
        build_index(denoiser, load_dataset(tiny_images), index, **(RECIPE | changes))
    assert state(index) == before


def test_another_model_is_refused(tmp_path, index, tiny_images):
    other = Denoiser.load(tiny_pipeline(tmp_path / "other", seed=1))
    before = state(index)
    with pytest.raises(MismatchError, match="model fingerprint"):
        build_index(other, load_dataset(tiny_images), index, **RECIPE)
    assert state(index) == before


@pytest.mark.filterwarnings("ignore:.*1 of 21 images have no caption")
@pytest.mark.parametrize("change", ["caption", "image", "one more", "one less"])
def test_other_data_are_refused(tmp_path, index, denoiser, tiny_images, change):
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    metadata = folder / "metadata.jsonl"
    if change == "caption":
        metadata.write_text(metadata.read_text().replace("a red heart", "a blue heart"))
    elif change == "image":
        shutil.copy(folder / "train-00001.png", folder / "train-00000.png")
    elif change == "one more":
        shutil.copy(folder / "train-00001.png", folder / "new.png")
    data = load_dataset(folder).first(19 if change == "one less" else 99)
    before = state(index)
    with pytest.raises(MismatchError, match="data fingerprint"):
        build_index(denoiser, data, index, **RECIPE)
    assert state(index) == before


@pytest.fixture
def places(tmp_path, tiny_model, tiny_images) -> list[Path]:
    """A model and images that can be moved."""
    return [
        Path(shutil.copytree(each, tmp_path / f"old {each.name}"))
        for each in (tiny_model, tiny_images)
    ]


def sources(manifest: Manifest) -> list[str]:
    return [manifest.model["source"], manifest.data["source"]]


def test_a_model_and_images_that_only_moved_are_found_again(tmp_path, places):
    """No row is computed, and questions look for them where they are now."""
    out = tmp_path / "index"

    def build(model, images) -> Index:
        given = Denoiser.load(model), load_dataset(images)
        return build_index(*given, out, checkpoints=[model], **RECIPE)

    build(*places)
    before = state(out)
    moved = [place.rename(tmp_path / f"new {place.name}") for place in places]
    with pytest.raises(ModelError, match="cannot load the model"):
        print(Session.open(out).denoiser)
    built = build(*moved)
    manifests = [out / "index.json", out / "checkpoints/0/index.json"]
    after = state(out)
    assert {path for path in after if after[path] != before[path]} == set(manifests)
    assert sources(built.manifest) == list(map(str, moved))
    for member in Session.open(out).members:
        assert sources(member.index.manifest) == list(map(str, moved))
        assert member.denoiser.source == str(moved[0]) and member.index.image(3) is not None
    before = state(out)
    assert build(*moved).manifest == built.manifest and state(out) == before


def test_what_is_in_memory_is_no_place(index, denoiser, tiny_images):
    """Going on with the same model, given as it is, forgets nothing; nor does leaving CLIP out."""
    manifest = read_manifest(index)
    known = replace(manifest, model={**manifest.model, "clip_source": "a CLIP"})
    write_manifest(index, known)
    before, data = state(index), load_dataset(tiny_images)
    build_index(Denoiser(denoiser.pipe), replace(data, source=IN_MEMORY), index, **RECIPE)
    assert state(index) == before


def test_overwrite(index, denoiser, tiny_images):
    (index / "index.json.77.part").write_text("left by a kill")
    (index / "queries").mkdir()
    (index / "queries/old.safetensors").write_text("of the old index")
    data = load_dataset(tiny_images)
    built = build_index(denoiser, data, index, overwrite=True, **(RECIPE | {"seed": 1}))
    assert built.recipe.seed == 1
    assert set(files(index)) == {"index.json", "samples.parquet", "features/00000.safetensors"}


def test_overwrite_mends_a_damaged_manifest(index, denoiser, tiny_images, small):
    (index / "index.json").write_text("{")
    with pytest.raises(StoreError, match=r"is damaged .*: `headwater repair"):
        build_index(denoiser, load_dataset(tiny_images), index, **RECIPE)
    build_index(denoiser, load_dataset(tiny_images), index, overwrite=True, **RECIPE)
    assert files(index) == files(small)


@pytest.mark.parametrize("with_index", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_left_alone(
    tmp_path, index, denoiser, tiny_images, with_index, overwrite
):
    folder = index if with_index else tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    (folder / "thesis.txt").write_text("three years")
    before = state(folder)
    recipe = RECIPE | {"seed": 1}
    with pytest.raises(MismatchError):
        build_index(denoiser, load_dataset(tiny_images), folder, overwrite=overwrite, **recipe)
    assert state(folder) == before


def test_an_empty_folder_is_as_good_as_none(tmp_path, denoiser, tiny_images, small):
    build_index(denoiser, load_dataset(tiny_images), tmp_path, **RECIPE)
    assert files(tmp_path) == files(small)


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("built") / "checkpoint", seed=1)


def other_encoder(tmp_path, tiny_model) -> Path:
    other = Denoiser.load(tiny_model)
    with torch.no_grad():
        other.pipe.vae.encoder.conv_in.weight += 1
    other.pipe.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


BAD_CHECKPOINTS = {
    "missing": (lambda tmp_path, _: tmp_path / "none", "cannot load the model"),
    "other encoder": (other_encoder, "has another autoencoder or text encoder"),
    "other layers": (
        lambda tmp_path, _: tiny_unconditional(tmp_path / "ddpm"),
        "has another autoencoder or text encoder",
    ),
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_checkpoints_are_looked_at_before_anything_is_built(
    tmp_path, denoiser, tiny_model, tiny_images, checkpoint, kind
):
    make, said = BAD_CHECKPOINTS[kind]
    checkpoints, out = [checkpoint, make(tmp_path, tiny_model)], tmp_path / "index"
    with pytest.raises(ModelError, match=said):
        build_index(denoiser, load_dataset(tiny_images), out, checkpoints=checkpoints, **RECIPE)
    assert not out.exists()


def test_an_index_knows_that_checkpoints_are_unfinished(
    tmp_path, tiny_model, tiny_images, checkpoint, monkeypatch
):
    """So do `info` and every question, until the same command has been run again."""
    out = tmp_path / "index"
    command = ("index", tiny_model, tiny_images, out, *FAST, "--checkpoint", checkpoint)
    real, made = building.build_planned, []

    def killed(*args, **options):
        made.append(options)
        if len(made) == 2:
            raise Killed
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(building, "build_planned", killed)
        with pytest.raises(Killed):
            run(*command)
    ask = ("concept", out, "a red star", "--concept", "star", "--draws", 1, "--out", tmp_path / "a")

    def assert_unfinished():
        facts = json.loads(run("info", out, "--json").out)
        assert facts["state"] == "unfinished, run `headwater index` again"
        assert (facts["models"], facts["shards"]) == (2, "1 of 2 whole")
        assert_refused(run(*ask), "is unfinished, it lacks 1 of its 1 checkpoint(s): run its")

    assert_unfinished()
    (out / "checkpoints/0").mkdir(parents=True)
    begun = replace(read_manifest(out), complete=False, shards=(), checkpoints=0)
    begun = replace(
        begun, model={**begun.model, "fingerprint": Denoiser.load(checkpoint).fingerprint()}
    )
    write_manifest(out / "checkpoints/0", begun)
    assert_unfinished()
    assert run(*command).code == 0
    facts = json.loads(run("info", out, "--json").out)
    assert (facts["state"], facts["shards"]) == ("complete", "2 of 2 whole")
    assert run(*ask).code == 0
    (out / "checkpoints/0/features/00000.safetensors").unlink()
    result = run("info", out)
    assert result.code == 2 and "1 shard(s) of " in result.err


# --- what it would take -------------------------------------------------------------------------


def test_an_estimate_of_disk_is_what_is_written(tmp_path, denoiser, many_images, checkpoint):
    recipe = RECIPE | {"method": "trak", "dim": 400}
    data, out = load_dataset(many_images), tmp_path / "index"
    planned = planned_of_all(denoiser, [checkpoint], **recipe)
    said = estimate(denoiser, data, planned, 32)
    assert (said["models"], said["probes"]) == (2, 2 * 2 * len(data))
    index = build_index(denoiser, data, out, checkpoints=[checkpoint], self_check=False, **recipe)
    features = sum(path.stat().st_size for path in out.rglob("features/*.safetensors"))
    assert said["disk (MB)"] == pytest.approx(features / 1e6, abs=0.06)
    for member in Session(index).members:
        member.kernel().inverse(0.1)
    kernels = sum(path.stat().st_size for path in out.rglob("kernels/*.safetensors"))
    assert said["kernel disk (MB)"] == pytest.approx(kernels / 1e6, abs=0.06)
    assert said["kernel memory (MB)"] >= round(2 * 8 * len(data) ** 2 / 1e6, 1)
    many = estimate(denoiser, data, [planned[0]] * 5, 32)  # one of whose is held at a time
    assert many["kernel memory (MB)"] == said["kernel memory (MB)"]
    assert many["kernel disk (MB)"] == pytest.approx(2.5 * said["kernel disk (MB)"], abs=0.2)


@pytest.mark.parametrize(
    ("rows", "dim", "expected"),
    [
        (10_000, 512, 10_000 / 256 + 1),
        (10_000, 4096, 3 * 10_000 / 256 + 64),
        (2048, 4096, 32 + 8),
    ],
)
def test_the_time_of_a_kernel_is_that_of_its_parts(monkeypatch, rows, dim, expected):
    """Each trial takes a second: of 256 rows times 1,024 features, and of a factor of 1,024."""
    monkeypatch.setattr(estimating, "least_seconds", lambda work: 1.0)
    assert estimating.kernel_seconds(rows, dim) == pytest.approx(expected)


def test_a_curvature_is_estimated_and_no_kernel(tmp_path, denoiser, many_images):
    """Its files are a part of the disk; of ten timesteps two passes look at two each."""
    data, out = load_dataset(many_images).first(40), tmp_path / "index"
    recipe = RECIPE | {"method": "ekfac", "dim": 400}
    said = estimate(denoiser, data, [plan(denoiser, **recipe)], 32)
    build_index(denoiser, data, out, self_check=False, **recipe)
    written = sum(path.stat().st_size for path in out.rglob("*.safetensors"))
    assert said["disk (MB)"] == pytest.approx(written / 1e6, abs=0.06)
    assert said["kernel disk (MB)"] == said["kernel memory (MB)"] == 0
    assert images_of_fit(plan(denoiser, method="ekfac", timesteps=10), 1000) == 200
    assert images_of_fit(plan(denoiser, method="ekfac", timesteps=10), 10**8) == 4000


@pytest.mark.parametrize("method", ["ekfac", "kfac"])
def test_what_a_curvature_takes_while_it_is_fitted(
    tmp_path, denoiser, many_images, monkeypatch, method
):
    """The most that its folder holds after any of its files is written: parts are files too."""
    monkeypatch.setattr(fitted, "PART_IMAGES", 10)
    held, write = [], fitted.Fit.write

    def weighed(self, name, tensors):
        write(self, name, tensors)
        held.append(sum(path.stat().st_size for path in self.folder.iterdir()))

    monkeypatch.setattr(fitted.Fit, "write", weighed)
    data, recipe = load_dataset(many_images).first(40), RECIPE | {"method": method, "dim": 16}
    said = estimate(denoiser, data, [plan(denoiser, **recipe)], 32)["curvature disk (MB, peak)"]
    index = build_index(denoiser, data, tmp_path / "index", self_check=False, **recipe)
    assert said == pytest.approx(max(held) / 1e6, abs=0.06)
    left = sum(path.stat().st_size for path in (index.path / "curvature").iterdir())
    assert len(held) >= 6 and max(held) > left, "parts are what makes it more"


def test_what_has_no_kernel_is_estimated_without(denoiser, tiny_images):
    said = estimate(denoiser, load_dataset(tiny_images), [plan(denoiser, method="pixel-dot")], 8)
    assert said["kernel disk (MB)"] == said["kernel memory (MB)"] == 0
    assert said["curvature disk (MB, peak)"] == 0


# --- bad images, bad numbers --------------------------------------------------------------------

BAD = [3, 11]


@pytest.fixture
def with_bad_images(tmp_path, tiny_images) -> Path:
    folder = Path(shutil.copytree(tiny_images, tmp_path / "images"))
    truncated, garbage = (folder / f"train-{row:05d}.png" for row in BAD)
    truncated.write_bytes(truncated.read_bytes()[:-60])
    garbage.write_bytes(b"no image at all")
    return folder


def test_a_bad_image_is_named(tmp_path, denoiser, with_bad_images):
    out = tmp_path / "index"
    with pytest.raises(BadImageError, match=r"'train-00003\.png'.*--skip-bad"):
        build_index(denoiser, load_dataset(with_bad_images), out, **RECIPE)
    assert not out.exists()


def test_bad_images_are_skipped_and_counted(tmp_path, denoiser, with_bad_images, small):
    out = tmp_path / "index"
    data = load_dataset(with_bad_images)
    with pytest.raises(BadImageError):
        build_index(denoiser, data, out, **RECIPE)
    built = build_index(denoiser, data, out, skip_bad=True, batch_size=4, **RECIPE)
    manifest = read_manifest(out)
    assert manifest.skipped == ["train-00003.png", "train-00011.png"]
    assert (manifest.data["rows"], manifest.rows, len(built)) == (20, 18, 18)

    good = [row for row in range(20) if row not in BAD]
    table = pq.read_table(out / "samples.parquet").to_pydict()
    assert table["row"] == list(built.positions) == good
    assert table["id"] == [f"train-{row:05d}.png" for row in good]
    assert blocks.read_positions(out, manifest.shards) == good
    torch.testing.assert_close(rows(out), rows(small)[good], rtol=2e-3, atol=1e-4)
    for row in (2, 3, 17):  # the picture of an index row is that of its own sample
        expected = data.image(good[row])
        picture = built.image(row)
        assert picture is not None and picture.tobytes() == expected.tobytes()


def test_nothing_but_bad_images(tmp_path, denoiser, with_bad_images):
    for path in with_bad_images.glob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DatasetError, match="every image was skipped"):
        data = load_dataset(with_bad_images)
        build_index(denoiser, data, tmp_path / "index", skip_bad=True, **RECIPE)


@pytest.fixture
def broken(tiny_model):
    """A model with a weight that is no number, or with nothing but zeros to attribute."""

    def break_(value: float, layers: str) -> Denoiser:
        denoiser = Denoiser.load(tiny_model)
        with torch.no_grad():
            for name, weight in denoiser.network.named_parameters():
                if layers in name:
                    weight.fill_(value)
        return denoiser

    return break_


@pytest.mark.parametrize("value, layers", [(float("nan"), "attn2.to_v"), (0.0, "conv_out")])
def test_rows_that_are_no_numbers_or_zero(tmp_path, tiny_images, broken, value, layers):
    out, data = tmp_path / "index", load_dataset(tiny_images)
    with pytest.raises(NonFiniteError) as caught:
        build_index(broken(value, layers), data, out, **RECIPE)
    text = str(caught.value)
    assert text.startswith("20 input(s) gave a NaN, infinite or all-zero feature row")
    assert ", ".join(sample.id for sample in data.samples[:5]) in text and "train-00005" not in text
    assert not out.exists()


def test_require_finite_names_the_rows():
    features = torch.ones(7, 3)
    features[1, 2], features[4, 0], features[5] = float("inf"), float("nan"), 0
    with pytest.raises(NonFiniteError, match=r"^3 input\(s\) .* row: b, e, f; "):
        require_finite(features, list("abcdefg"))
    require_finite(features[[0, 2, 3, 6]], list("acdg"))


# --- out of memory ------------------------------------------------------------------------------

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    "python": MemoryError(),
}


HALVED = [f"out of memory: going on with batches of {size}" for size in (16, 8)]


def limited(limit: int, error: Exception, seen: list[int]):
    """Work that fits in memory up to `limit` items."""

    def compute(part):
        seen.append(len(part))
        if len(part) > limit:
            raise error
        return list(part)

    return compute


@pytest.mark.usefixtures("memory_is_tried")
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_the_batch_halves_until_it_fits_and_stays_there(error):
    seen, notes = [], []
    batch = BatchSize(None, notes.append)
    results = list(batch.over(range(70), limited(10, error, seen)))
    assert [item for part in results for item in part] == list(range(70))
    assert seen == [1, 32, 16, 8, 8, 8, 8, 8, 8, 8, 8, 6]
    assert notes == ["batches of 32", *HALVED]
    assert [len(part) for part in batch.over(range(9), limited(10, error, []))] == [8, 1]


@pytest.mark.parametrize(
    "given, limit, said",
    [
        (12, 10, "at batch size 12: give --batch-size 6 or auto; finished work is kept"),
        (1, 0, "at batch size 1: choose fewer --parameters or a machine with more"),
        (None, 0, "at batch size 1: choose fewer --parameters or a machine with more"),
    ],
)
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_out_of_memory_with_nothing_left_to_halve(error, given, limit, said):
    with pytest.raises(ResourceError, match=f"out of memory {said}"):
        list(BatchSize(given).over(range(40), limited(limit, error, [])))


@pytest.mark.usefixtures("memory_is_tried")
@pytest.mark.parametrize("room, size", [(10**9, 32), (10**6, 16), (6e5, 8), (10, 1), (None, 32)])
def test_the_batch_is_chosen_by_what_one_item_needs(monkeypatch, room, size):
    """10,000 bytes of graph an item: three times that, times the batch, in 70% of the room."""
    monkeypatch.setattr(batching, "room_bytes", lambda device: room)
    weight, notes = torch.ones(2500, requires_grad=True), []

    def compute(part):
        return sum((torch.full((2500,), float(i)) * weight).sum() for i in part)

    batch = BatchSize(None, notes.append)
    list(batch.over(range(40), compute))
    assert batch.size == size and notes == [f"batches of {size}"]


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize(None).over(range(40), limited(10, RuntimeError("shapes"), [])))


def test_an_index_built_with_little_memory(tmp_path, tiny_model, tiny_images, small, monkeypatch):
    denoiser, data, notes = Denoiser.load(tiny_model), load_dataset(tiny_images), []
    predict = denoiser.predict

    def small_predict(xt, t, condition):
        if len(xt) > 8:
            raise ERRORS["cuda"]
        return predict(xt, t, condition)

    monkeypatch.setattr(denoiser, "predict", small_predict)
    with pytest.raises(ResourceError, match="--batch-size 4"):
        build_index(denoiser, data, tmp_path / "index", batch_size=9, **RECIPE)
    build_index(denoiser, data, tmp_path / "index", note=notes.append, **RECIPE)
    assert notes[1:] == ["batches of 32", *HALVED]
    torch.testing.assert_close(rows(tmp_path / "index"), rows(small), rtol=2e-3, atol=1e-4)
    hooks = [len(module._forward_hooks) for module in denoiser.network.modules()]
    assert not any(hooks) and all(p.requires_grad for p in denoiser.network.parameters())


def test_a_full_disk_keeps_the_shards_that_are_there(
    tmp_path, in_one_go, denoiser, many_images, monkeypatch
):
    out, data = tmp_path / "index", load_dataset(many_images)
    real, calls = shards.save_file, []

    def save_file(tensors, path, metadata):
        calls.append(path)
        if len(calls) > 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "save_file", save_file)
        with pytest.raises(ResourceError, match="what was finished is kept"):
            build_index(denoiser, data, out, **RECIPE)
    kept = {f"features/0000{i}.{end}" for i in range(2) for end in ("json", "safetensors")}
    assert set(files(out)) == {"index.json"} | kept
    build_index(denoiser, data, out, **RECIPE)
    assert files(out) == files(in_one_go)


def test_methods_with_the_same_features_share_an_index(tmp_path, denoiser, tiny_images):
    data, out = load_dataset(tiny_images), tmp_path / "index"
    built = build_index(denoiser, data, out, **RECIPE | {"method": "trak"})
    before = state(out)
    again = build_index(denoiser, data, out, **RECIPE | {"method": "gradient-cosine"})
    assert state(out) == before and again.recipe == built.recipe
    assert {"trak", "gradient-cosine", "journey-trak", "concept-trak-a"} <= set(again.methods())
    assert "concept-trak" not in again.methods()


def test_images_without_a_caption_are_counted(tmp_path, denoiser, tiny_images):
    folder = shutil.copytree(tiny_images, tmp_path / "images")
    for name in ("new.png", "other.png"):
        shutil.copy(folder / "train-00001.png", folder / name)
    with pytest.warns(
        HeadwaterWarning, match=r"2 of 22 images have no caption, such as 'new\.png'"
    ):
        build_index(denoiser, load_dataset(folder), tmp_path / "index", **RECIPE)
