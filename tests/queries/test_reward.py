"""Rows of rewards against the exact gradient of their loss, and every function that is refused."""

import json
import sys
from pathlib import Path

import pytest
import torch
from support.command_line import FAST, assert_refused, headwater
from support.exact_gradients import gradient, unprojected
from support.settings import setting
from support.tiny import tiny_unconditional
from support.tiny_clip import tiny_clip

from headwater import Denoiser
from headwater.errors import NonFiniteError, QueryError
from headwater.features import objectives
from headwater.features.extractor import Extractor
from headwater.features.spec import Side
from headwater.gradients.layers import size
from headwater.gradients.projection import make_projection
from headwater.models.clip import Clip
from headwater.models.sampling import sample
from headwater.queries.draws import RowCache, draw_rows, trajectory_noise
from headwater.queries.reward import Reward, Scorer, from_module, similarity_to

PROMPT = "a red star in hatched style"
MODULE = """
def redness(images):
    red, green, blue = images.unbind(1)
    return (red.square() - green * blue).mean((1, 2))
"""


def redness(images):
    red, green, blue = images.unbind(1)
    return (red.square() - green * blue).mean((1, 2))


REDNESS = Scorer("redness", "1", redness)


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, and a way to write modules there under names that no other test has."""
    monkeypatch.chdir(tmp_path)

    def write(text: str = MODULE) -> str:
        name = f"rewards_{abs(hash(tmp_path))}_{len(list(tmp_path.glob('rewards_*.py')))}"
        Path(f"{name}.py").write_text(text)
        return name

    return write


# --- rows ---------------------------------------------------------------------------------------


def decoded(denoiser, x0hat):
    """Pixels from 0 to 1, straight from the pipeline's own parts."""
    vae = getattr(denoiser.pipe, "vae", None)
    picture = x0hat if vae is None else vae.decode(x0hat / vae.config.scaling_factor).sample
    return ((picture + 1) / 2).clamp(0, 1)


def exact_row(denoiser, reward, noise, condition, timesteps, weigh):
    """Mean over DDIM steps of weigh(grad ||sg[eps - grad_xt R(x0hat)] - eps||^2 / 2)."""
    total, xt = 0, noise
    given = {} if condition is None else condition.tensors
    for t, then in zip(timesteps[::-1], [*timesteps[-2::-1], None], strict=True):
        a = denoiser.schedule.alpha_bar[t].double()
        xt = xt.detach().requires_grad_()
        eps = denoiser.network(xt, t, **given).sample
        x0hat = (xt - (1 - a).sqrt() * eps) / a.sqrt()
        value = reward(decoded(denoiser, x0hat)).sum()
        (slope,) = torch.autograd.grad(value, xt, retain_graph=True)
        loss = ((eps - slope).detach() - eps).square().sum() / 2
        total = total + weigh(gradient(denoiser, loss))
        if then is not None:
            a = denoiser.schedule.alpha_bar[then].double()
            xt = a.sqrt() * x0hat.detach() + (1 - a).sqrt() * eps.detach()
    return total / len(timesteps)


@pytest.mark.parametrize("normalise", ["none", "probe"])
def test_a_row_is_the_gradient_of_the_reward_loss(denoiser, normalise):
    """Of two draws, at three timesteps, through network and autoencoder."""
    timesteps = (199, 599, 999)
    machine = unprojected(denoiser, timesteps, normalise)
    drawer = Reward(PROMPT, REDNESS, seed=5).drawer(setting(denoiser))
    assert drawer.probes(machine) == 3
    ours = machine.query_rows(drawer.objectives(machine, [0, 3]))
    condition = denoiser.encode_captions([PROMPT])
    for row, draw in zip(ours, (0, 3), strict=True):
        noise = trajectory_noise(denoiser, 5, [draw])
        weigh = (lambda g: g / g.norm()) if normalise == "probe" else (lambda g: g)
        exact = exact_row(denoiser, redness, noise, condition, timesteps, weigh)
        assert exact.norm() > 0
        assert (row - exact).norm() <= 1e-9 * exact.norm()


def test_nearness_as_a_reward_gives_the_row_of_dps(tmp_path):
    """On a model of pixels R = -||x0 - x0hat||^2 has the gradient of the DPS loss, and its sign."""
    denoiser = Denoiser.load(tiny_unconditional(tmp_path / "ddpm"), dtype=torch.float64)
    layers = denoiser.layers("attentions")
    kept = make_projection("identity", layers, sum(map(size, layers.values())), 0)
    machine = Extractor(denoiser, layers, kept, Side("inversion", "dps"), (99,), "probe", 0)
    # near grey, so that no pixel is cut off
    x0, xt = (0.1 * torch.randn(1, *denoiser.latent_shape).double() for _ in range(2))

    def near(pixels):
        return -(2 * pixels - 1 - x0).square().flatten(1).sum(1)

    ours = machine.query_rows(objectives.reward_objectives(denoiser, xt, None, near, (99,)))[0]
    a = denoiser.schedule.alpha_bar[99].double()
    xt.requires_grad_()
    eps = denoiser.network(xt, 99).sample
    x0hat = (xt - (1 - a).sqrt() * eps) / a.sqrt()
    assert x0hat.abs().max() < 1
    (guide,) = torch.autograd.grad((x0 - x0hat).square().sum(), xt, retain_graph=True)
    loss = ((eps + (1 - a).sqrt() * guide).detach() - eps).square().sum()
    weights = [p for layer in layers.values() for p in layer.parameters()]
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    assert (ours - exact / exact.norm()).norm() <= 1e-9


def test_a_step_along_the_row_raises_the_reward(denoiser):
    """The sign of it all, without a word on gradients: lower loss is a higher reward."""
    machine = unprojected(denoiser, (999,), "none")
    drawer = Reward(PROMPT, REDNESS).drawer(setting(denoiser))
    row = machine.query_rows(drawer.objectives(machine, range(8))).mean(0)
    condition = denoiser.encode_captions([PROMPT] * 8)
    noise = trajectory_noise(denoiser, 0, range(8))
    weights = [p for m in machine.layers.values() for p in m.parameters()]

    @torch.no_grad()
    def after(step):
        parts = (step * row / row.norm()).split([w.numel() for w in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight -= part.reshape(weight.shape)
        x0 = sample(denoiser, noise, condition, steps=1)
        for weight, part in zip(weights, parts, strict=True):
            weight += part.reshape(weight.shape)
        return redness(denoiser.pixels(x0)).mean()

    assert after(-0.1) < after(0) < after(0.1)


# --- a function of the user's -------------------------------------------------------------------


def test_a_function_is_known_by_its_name_and_its_source(here):
    one, other = here(MODULE + "green = redness"), here(MODULE + "#")
    first = from_module(f"{one}:redness")
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(first.function(images), redness(images))
    assert first.title == f"{one}:redness"
    keys = {from_module(f"{module}:{name}").key for module, name in
            [(one, "redness"), (one, "redness"), (one, "green"), (other, "redness")]}  # fmt: skip
    assert len(keys) == 3
    Path(f"{one}.py").write_text(MODULE + "changed = 1")
    assert from_module(f"{one}:redness").key not in keys


def test_a_function_is_known_by_what_its_module_imports(here):
    inner = here("weight = 1.0\n")
    helper = here(f"def scaled(x):\n    from {inner} import weight\n    return weight * x\n")
    name = here(MODULE + f"from {helper} import scaled\nimport torch.nn, {inner}\n")
    key = from_module(f"{name}:redness").key
    assert from_module(f"{name}:redness").key == key
    Path(f"{inner}.py").write_text("weight = 2.0\n")
    assert from_module(f"{name}:redness").key != key


def test_the_working_directory_is_looked_in_and_left_out_again(here):
    name, before = here(), list(sys.path)
    from_module(f"{name}:redness")
    assert sys.path == before


REFUSED = {
    "form": ("nonsense", "--reward '{name}' must be module:function"),
    "no module": ("none:redness", "cannot import the module 'none'"),
    "no function": ("{module}:blueness", "{module}.py has no function 'blueness'"),
    "no callable": ("{module}:number", "it is a int, not a function of images"),
    "broken": ("{broken}:redness", "cannot import the module '{broken}' (SyntaxError: "),
    "raising": ("{raising}:redness", "cannot import the module '{raising}' (ZeroDivisionError: "),
}


@pytest.mark.parametrize("name, said", REFUSED.values(), ids=REFUSED)
def test_functions_that_are_not_there(here, name, said):
    names = {
        "module": here("number = 1\n"),
        "broken": here("def redness(:\n"),
        "raising": here("1 / 0\n"),
    }
    name = name.format(**names)
    with pytest.raises(QueryError) as error:
        from_module(name)
    assert said.format(name=name, **names) in str(error.value)
    assert "\n" not in str(error.value)


FUNCTIONS = {
    "one number for all": (lambda images: images.mean(), "images [2, 3, 16, 16] it gave [], not"),
    "too many": (lambda images: torch.zeros(3), "it gave [3], not [2]"),
    "no tensor": (lambda images: 1.0, "it gave float, not [2]"),
    "constant": (lambda images: torch.ones(len(images)), "does not depend on the image"),
    "cut off": (lambda images: images.detach().mean((1, 2, 3)), "does not depend on the image"),
    "other weights": (
        lambda images: torch.ones(len(images), requires_grad=True) * 2,
        "does not depend on the image",
    ),
    "mixed": (
        lambda images: images.mean((1, 2, 3)).softmax(0),
        "mixes the images of a batch",
    ),
    "raises": (lambda images: images @ images[..., :2, :], "fails on images [2, 3, 16, 16] from 0"),
    "nan": (lambda images: (images - images).sqrt().mean((1, 2, 3)), "a NaN or infinite gradient"),
}


@pytest.mark.parametrize("function, said", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_that_are_no_rewards(denoiser, function, said):
    machine = unprojected(denoiser, (499, 999), "probe")
    with pytest.raises(QueryError) as error:
        drawer = Reward(PROMPT, Scorer("mine", "", function)).drawer(setting(denoiser))
        drawer.check(denoiser)
        machine.query_rows(drawer.objectives(machine, range(2)))
    assert str(error.value).startswith("the reward 'mine' ") and said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "function",
    [
        lambda images: (images * 0).mean((1, 2, 3)),
        lambda images: (images.mean((1, 2, 3)) - 2).relu(),
    ],
)
def test_a_reward_that_is_flat_says_so(denoiser, function, tmp_path):
    machine = unprojected(denoiser, (499, 999), "probe")
    drawer = Reward(PROMPT, Scorer("mine", "", function)).drawer(setting(denoiser))
    with pytest.raises(NonFiniteError, match="'mine' gave an all-zero gradient: leave out what is"):
        draw_rows(lambda _: machine, drawer, range(2), {None: RowCache(tmp_path, "")})


def test_numbers_of_each_image_may_be_many(denoiser):
    """[b, 1], and maps, count by their sum."""
    machine = unprojected(denoiser, (999,), "none")

    def row(function):
        drawer = Reward(PROMPT, Scorer("mine", "", function)).drawer(setting(denoiser))
        return machine.query_rows(drawer.objectives(machine, range(2)))

    wanted = row(lambda images: images.square().sum((1, 2, 3)))
    assert wanted.norm() > 0
    torch.testing.assert_close(row(lambda images: images.square().flatten(1)), wanted)


def test_a_reward_needs_a_prompt_where_the_model_reads_one(denoiser):
    with pytest.raises(QueryError, match="in pictures of a prompt: give one"):
        Reward(" ", REDNESS).drawer(setting(denoiser)).check(denoiser)
    with pytest.raises(QueryError, match="--draws 0 must be at least 1"):
        Reward(PROMPT, REDNESS, draws=0)


def test_rows_are_kept_under_the_key(denoiser):
    """Another function, prompt or seed is another question."""

    def key(scorer=REDNESS, prompt=PROMPT, seed=0):
        return json.dumps(Reward(prompt, scorer, seed=seed).drawer(setting(denoiser)).key(range(4)))

    other = Scorer("redness", "2", redness)
    assert key() == key()
    assert len({key(), key(other), key(prompt="a star"), key(seed=1)}) == 4


# --- likeness to words --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("rewards") / "clip")


def test_likeness_is_the_cosine_of_clip(clip):
    model, images = Clip(clip), torch.rand(3, 3, 16, 16, requires_grad=True)
    scorer = similarity_to("a red star", model)
    values = scorer.function(images)
    a, b = model.pixels(images), model.texts(["a red star"])
    torch.testing.assert_close(values, (a @ b.T)[:, 0] / (a.norm(dim=1) * b.norm()))
    (slope,) = torch.autograd.grad(values.sum(), images)
    assert slope.flatten(1).norm(dim=1).all()
    assert scorer.title == "a red star"


def test_likeness_is_known_by_the_words_and_the_weights(clip, tmp_path):
    other = Clip(tiny_clip(tmp_path / "clip", seed=1))
    asked = [("star", Clip(clip)), ("star", Clip(clip)), ("moon", Clip(clip)), ("star", other)]
    assert len({similarity_to(words, model).key for words, model in asked}) == 3
    with pytest.raises(QueryError, match="says nothing"):
        similarity_to(" ", other)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images):
    folder = tmp_path_factory.mktemp("rewards") / "index"
    assert headwater("index", tiny_model, tiny_images, folder, *FAST, "--limit", 8).code == 0
    return folder


def test_a_reward_is_answered(index, here, tmp_path):
    name = f"{here()}:redness"
    ask = ("concept", index, PROMPT, "--reward", name, "--out", tmp_path / "out", "--draws", 4)
    result = headwater(*ask, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    (found,) = answer["results"]
    assert answer["prompt"] == PROMPT
    assert (found["question"], found["title"]) == ("reward", name)
    assert found["query"]["draws"] == 4 and found["query"]["reward key"] == from_module(name).key
    scores = [entry["score"] for entry in found["top"]]
    assert len(scores) == 8 and scores == sorted(scores, reverse=True) and scores[0] > scores[-1]
    again = headwater(*ask)
    assert again.code == 0 and "using the query gradient computed before" in again.err
    assert again.out.splitlines()[1:4] == [
        f"{name!r} in {PROMPT!r}",
        "concept-trak-unguided, asked what raises this reward along trajectories of the",
        "prompt",
    ]


def test_likeness_to_words_is_answered(index, clip, tmp_path):
    ask = ("concept", index, PROMPT, "--reward-text", "a red star", "--draws", 2)
    result = headwater(*ask, "--clip", clip, "--out", tmp_path, "--json")
    assert result.code == 0, result.err
    (found,) = json.loads(result.out)["results"]
    assert (found["question"], found["title"]) == ("reward", "a red star")
    assert_refused(headwater(*ask, "--out", tmp_path), "needs a CLIP model: give its folder as -")


ONE = {
    "neither": ([], "nothing is asked for: give --concept or --reward or --reward-text"),
    "both": (["--concept", "star", "--reward", "m:f"], "--concept and --reward are different"),
    "minus": (["--reward", "m:f", "--minus", ""], "--minus does not go with --reward: leave it"),
    "base": (["--reward", "m:f", "--base", "x"], "--base does not go with --reward"),
    "context": (["--reward", "m:f", "--context", "bare"], "--context does not go with --reward"),
    "swap": (["--reward-text", "x", "--swap"], "--swap does not go with --reward-text"),
    "candidates": (
        ["--reward", "m:f", "--candidates", "clip:5"],
        "--candidates does not go with --reward",
    ),
    "module": (["--reward", "no_such_module:f"], "cannot import the module 'no_such_module'"),
    "method": (["--reward", "math:sin", "--method", "trak"], "trak cannot be asked for any score"),
}


@pytest.mark.parametrize("options, said", ONE.values(), ids=ONE)
def test_what_does_not_go_together(index, tmp_path, options, said):
    result = headwater("concept", index, PROMPT, *options, "--out", tmp_path / "out")
    assert_refused(result, said)
    assert not (tmp_path / "out").exists()
