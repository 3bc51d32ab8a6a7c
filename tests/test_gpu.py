"""On a GPU as on the CPU: the same numbers up to rounding. Skipped where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.command_line import FAST, headwater
from support.studies import captioned
from support.trainings import train_adapters

from headwater import (
    Concept,
    Contribution,
    Denoiser,
    GroupedImage,
    Index,
    build_index,
    load_dataset,
)
from headwater.errors import ModelError
from headwater.evaluation.retraining.models import encode_data, train
from headwater.evaluation.retraining.networks import new_pipeline
from headwater.evaluation.retraining.trainer import FitOptions, fit
from headwater.methods.table import METHODS
from headwater.models.sampling import draw
from headwater.queries.image import Image
from headwater.runtime.batch_size import BatchSize
from headwater.runtime.executor import Executor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PROMPT = "a red star in hatched style"
RECIPE = {"timesteps": 2, "dim": 64}


def exactly(model, device) -> Denoiser:
    return Denoiser.load(model, device, torch.float64)


def correlation(one, other) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def alone(method) -> bool:
    """Whether it takes one checkpoint, no CLIP and no recorded training."""
    clip = method.train is not None and method.train.path == "clip"
    return method.checkpoints == 1 and not clip and not method.recorded


def answered(model, data, out, name):
    """The scores of one method, by an index of its own."""
    method = METHODS[name]
    recipe = RECIPE if method.train is None or method.train.gradient else {}
    own = "trak" if method.train is None else name  # what has no features asks any index
    index = build_index(model, data, out, method=own, **recipe)
    if "image" in method.takes:
        query = Image(PROMPT, seed=3, draws=2, steps=4)
    elif "groups" in method.takes:
        query = GroupedImage(PROMPT, seed=3, draws=2, steps=4, groups="star")
    elif "concept" in method.takes:
        query = Concept(PROMPT, "star", draws=2)
    else:
        query = Contribution(PROMPT, "star", draws=2, alternatives=("moon", "heart"))
    return index.attribute(query, method=name).scores


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if alone(method)])
def test_methods_score_as_on_the_cpu(name, tiny_model, tiny_images, tmp_path):
    data = load_dataset(tiny_images)
    here = answered(exactly(tiny_model, "cpu"), data, tmp_path / "here", name)
    there = answered(exactly(tiny_model, "cuda"), data, tmp_path / "there", name)
    assert np.ptp(here) > 0
    # stored rows are float16, where last bits of float64 can fall on either side
    np.testing.assert_allclose(there, here, rtol=1e-2, atol=1e-2 * np.abs(here).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["concept-trak", "trak", "d-trak"])
def test_shorter_numbers_say_the_same(name, dtype, tiny_model, tiny_images, tmp_path):
    data = load_dataset(tiny_images)
    exact = answered(exactly(tiny_model, "cpu"), data, tmp_path / "exact", name)
    short = answered(Denoiser.load(tiny_model, "cuda", dtype), data, tmp_path / "short", name)
    assert correlation(exact, short) > (0.99 if dtype == torch.float32 else 0.8)


def test_a_recorded_training_is_taken_back_as_on_the_cpu(tmp_path):
    """Recorded on the CPU."""
    train_adapters(tmp_path, recorded=True)
    data, found = load_dataset(tmp_path / "images"), []
    for device in ("cpu", "cuda"):
        own = dict(lora=tmp_path / "lora", run=tmp_path / "run")
        model = Denoiser.load(tmp_path / "model", device, torch.float64, **own)
        index = build_index(model, data, tmp_path / device, method="gradient-dot", **RECIPE)
        query = Image(PROMPT, seed=3, draws=2, steps=4)
        found.append(index.attribute(query, method="metagradient").scores)
    here, there = found
    assert np.ptp(here) > 0
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4 * np.abs(here).max())


def test_a_seed_makes_the_same_picture(tiny_model):
    here, there = (draw(exactly(tiny_model, device), PROMPT, 5) for device in ("cpu", "cuda"))
    torch.testing.assert_close(there.x0.cpu(), here.x0, rtol=1e-6, atol=1e-6)


@pytest.fixture
def words(tiny_model, tiny_images):
    return encode_data(Denoiser.load(tiny_model, "cpu"), load_dataset(tiny_images))


def learned(config, words, work, device, begun=0):
    pipe = new_pipeline(config, begun)
    train(pipe, words.take(range(20)), config, work, device=device)
    return torch.cat([each.flatten().cpu() for each in pipe.unet.parameters()])


def test_training_goes_as_on_the_cpu(tiny_model, words, tmp_path):
    """Half a dozen steps; more would carry rounding on."""
    config = captioned(tiny_model, steps=6)
    here = learned(config, words, tmp_path / "cpu", "cpu")
    there = learned(config, words, tmp_path / "cuda", "cuda")
    begun = torch.cat([p.flatten() for p in new_pipeline(config, 0).unet.parameters()])
    assert (there - here).norm() < 0.05 * (here - begun).norm()


def test_training_goes_on_from_a_checkpoint(tiny_model, words, tmp_path):
    config = captioned(tiny_model, steps=6)
    in_one_go = learned(config, words, tmp_path / "one", "cuda")
    (phase,) = config.phases
    learned(replace(config, phases=(replace(phase, stop=3),)), words, tmp_path / "two", "cuda")
    gone_on = learned(config, words, tmp_path / "two", "cuda", begun=1)  # weights it must not keep
    torch.testing.assert_close(gone_on, in_one_go, rtol=1e-3, atol=1e-4)


@pytest.fixture
def room():
    """Bytes of the GPU that this process may have more than it holds, a fiftieth of it."""
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(0.02 + torch.cuda.memory_reserved() / whole)
    yield whole // 50
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_batch_halves_when_the_gpu_is_full(room):
    notes, sizes = [], []

    def compute(part):
        held = torch.empty(len(part), room // 10, dtype=torch.uint8, device="cuda")
        sizes.append(len(held))
        return len(held)

    assert list(BatchSize(None, notes.append, "cuda").over(range(20), compute)) == [8, 8, 4]
    assert sizes == [1, 8, 8, 4]  # one to find how many fit: nothing that autograd kept
    halved = "out of memory: going on with batches of"
    assert notes == ["batches of 256", *(f"{halved} {size}" for size in (128, 64, 32, 16, 8))]


def test_workers_share_a_gpu(tiny_model, tiny_images, tmp_path):
    data = load_dataset(tiny_images)
    options = {"method": "concept-trak-unguided", **RECIPE}
    for name, executor in (("one", Executor()), ("two", Executor(jobs=2))):
        model = Denoiser.load(tiny_model, "cuda")
        build_index(model, data, tmp_path / name, executor=executor, **options)
    one, two = (torch.cat(list(Index.open(tmp_path / n).blocks())) for n in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2 * one.abs().max().item())


def test_the_command_line(tiny_model, tiny_images, tmp_path):
    index, out = tmp_path / "index", tmp_path / "answer"
    made = headwater("index", tiny_model, tiny_images, index, "--device", "cuda", *FAST)
    assert made.code == 0, made.err
    options = ["--concept", "star", "--draws", 2, "--out", out, "--device", "cuda"]
    asked = headwater("concept", index, PROMPT, *options)
    assert asked.code == 0, asked.err
    assert (out / "report.html").exists()


def test_a_loss_that_asks_the_cpu_is_refused(tmp_path):
    """The last test of the file: nobody knows what a recording that failed leaves behind."""
    model = torch.nn.Linear(3, 1).cuda()

    def loss(x):
        return model(x).mean() * x.sum().item()

    with pytest.raises(ModelError, match=r"cannot be recorded on a GPU .* --device cpu"):
        fit(model, lambda _: [torch.ones(2, 3)], loss, tmp_path / "fit", FitOptions(2, 0.1))
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
