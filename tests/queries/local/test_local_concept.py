"""A local concept's row against the exact gradient of the slider loss, and what a user meets."""

import hashlib
import json
import shlex
import shutil
from dataclasses import astuple, replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from support.command_line import FAST, headwater
from support.settings import setting
from support.tiny import tiny_unconditional

from headwater import Concept, Denoiser
from headwater.errors import MethodError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.spec import Side
from headwater.gradients.layers import size
from headwater.gradients.projection import make_projection
from headwater.models import textual_inversion
from headwater.queries.draws import trajectory_noise
from headwater.queries.local import lesson
from headwater.queries.local.local_concept import Local, LocalDrawer, whole_picture
from headwater.scenes.dataset import pictures

PROMPT = "a red star in hatched style"
CAPTIONS = ("a star", "a red star on a wavy background", "a star in neon style", "a blue moon")
STEPS = 4  # of learning: nothing here needs a good token


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    shown = pictures("validation")[0].draw().resize((16, 16))
    shown.save(folder / "star.png")
    half = Image.new("L", shown.size)
    half.paste(255, (0, 0, 8, 16))
    half.save(folder / "half.png")
    Image.new("L", shown.size).save(folder / "black.png")
    Image.new("L", (20, 20), "white").save(folder / "other.png")
    (folder / "text.png").write_text("no picture")
    return folder / "star.png"


def star(picture, words="star", mask=None, **options) -> Local:
    return Local(Concept(PROMPT, words, **options), picture, mask, STEPS)


def drawer_of(query, denoiser, cache=None) -> LocalDrawer:
    return query.drawer(setting(denoiser, CAPTIONS, cache=cache or Path("unused")))


def facts(query, denoiser, draws) -> dict:
    """What provenance says."""
    return dict(drawer_of(query, denoiser).describe(draws).facts)


# --- the row -------------------------------------------------------------------------------------


def diffusers_own(tiny_model, tmp_path, token) -> Denoiser:
    """The model after `pipe.load_textual_inversion` of the saved token."""
    path = tmp_path / "token.safetensors"
    textual_inversion.save_token(path, token)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model)
    pipe.text_encoder.to(torch.float64)
    pipe.load_textual_inversion(path)
    return Denoiser(pipe, dtype=torch.float64)


@pytest.mark.parametrize(
    "query, plus, minus, base",
    [
        (dict(context="prompt"), "a red <star> in hatched style", "a red in hatched style", None),
        (
            dict(minus="a moon", base="a red shape"),
            "a red <star> in hatched style",
            "a moon",
            "a red shape",
        ),
        (dict(context="bare"), "<star>", "", None),
        (dict(context="bare", swap=True), "", "<star>", None),
    ],
    ids=["prompt", "base", "bare", "swap"],
)
def test_a_row_is_the_gradient_of_the_slider_loss(
    denoiser, tiny_model, tmp_path, picture, query, plus, minus, base
):
    """||sg[eps(c) + eps(c+) - eps(c-)] - eps(c)||^2 at x_T, by autograd in diffusers' own model."""
    asked = star(picture, **query)
    drawer = drawer_of(asked, denoiser, tmp_path / "kept")
    layers = denoiser.layers("attn2")
    kept = make_projection("identity", layers, sum(map(size, layers.values())), 0)
    machine = Extractor(denoiser, layers, kept, Side("inversion", "dps"), (999,), "none", 0)
    ours = machine.query_rows(drawer.objectives(machine, [3]))[0]

    theirs = diffusers_own(tiny_model, tmp_path, drawer.token(denoiser))
    noise = trajectory_noise(denoiser, 0, [3])

    def predict(text):
        condition = theirs.encode_captions([text])
        return theirs.pipe.unet(noise, 999, **condition.tensors).sample

    eps = predict(plus if base is None else base)
    target = (eps + predict(plus) - predict(minus)).detach()
    weights = [p for m in theirs.layers("attn2").values() for p in m.parameters()]
    loss = (target - eps).square().sum() / 2
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
    assert exact.any() and (ours - exact).norm() <= 1e-9 * exact.norm()


# --- contexts and keys ---------------------------------------------------------------------------


def test_contexts_are_those_of_the_concept(denoiser, picture):
    drawn = facts(star(picture, draws=6), denoiser, 6)["contexts"]
    named = [
        ["a star", ""],
        ["a red star on a wavy background", "a red on a wavy background"],
        ["a star in neon style", "in neon style"],
    ]
    assert sorted(drawn) == sorted(named)


def test_the_whole_picture_stands_beside_the_prompt(denoiser, picture):
    for prompt, plus in (("a red star", "a red star <picture>"), ("", "<picture>")):
        asked = whole_picture(prompt, picture, draws=2, steps=STEPS)
        drawer = drawer_of(asked, denoiser)
        assert drawer.contexts.pairs == ((prompt, prompt),) * 2
        assert lesson.with_token(prompt, drawer.lesson.words, "<picture>") == plus
        assert (asked.prompt, asked.title, asked.kind) == (prompt, "this picture", "local")
        assert "added to the prompt" in drawer.describe(2).words


def test_the_lack_of_what_a_picture_shows(denoiser, picture):
    plain, swapped = (star(picture, swap=swap, draws=2) for swap in (False, True))
    assert (plain.title, swapped.title) == ("this star", "the lack of this star")
    one, other = (facts(query, denoiser, 2) for query in (plain, swapped))
    assert not one["swap"] and other["swap"]
    assert other["contexts"] == [list(reversed(pair)) for pair in one["contexts"]]


def test_provenance_is_of_the_draws_made_and_of_the_files(denoiser, picture):
    mask = picture.with_name("half.png")
    auto = star(picture, mask=mask, draws=None)
    assert facts(auto, denoiser, 2) == facts(star(picture, mask=mask, draws=2), denoiser, 2)
    drawer = drawer_of(auto, denoiser)
    assert "over 3 training captions" in drawer.describe(256).words
    assert "over 2 training captions" in drawer.describe(2).words
    for name, path in (("picture", picture), ("mask", mask)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert facts(auto, denoiser, 2)[f"{name} sha256"] == digest


def test_what_a_row_depends_on(denoiser, picture):
    """Another picture, mask, prompt, words, seed or number of steps is another question."""
    other = picture.with_name("else.png")
    Image.open(picture).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)
    asked = star(picture)
    changed = [
        star(other),
        star(picture, mask=picture.with_name("half.png")),
        star(picture, words="red star"),
        star(picture, seed=1),
        replace(asked, steps=STEPS + 1),
        replace(asked, subject=Concept("a star", "star")),
        star(picture, context="prompt"),
    ]
    keys = [json.dumps(drawer_of(each, denoiser).key(range(2))) for each in (asked, *changed)]
    assert len(set(keys)) == len(keys)
    copy = picture.with_name("copy.png")
    shutil.copy(picture, copy)
    assert json.dumps(drawer_of(star(copy), denoiser).key(range(2))) == keys[0]


def test_a_token_is_learned_once(denoiser, picture, tmp_path, monkeypatch):
    def token(query):
        return drawer_of(query, denoiser, tmp_path).token(denoiser).embedding

    asked = star(picture)
    first = token(asked)
    assert not torch.allclose(first, token(replace(asked, mask=picture.with_name("half.png"))))
    assert len(list(tmp_path.iterdir())) == 2

    def refuse(*_, **__):
        raise AssertionError("learned again")

    monkeypatch.setattr(lesson, "learn_token", refuse)
    assert torch.equal(token(asked), first)
    with pytest.raises(AssertionError, match="learned again"):
        token(replace(asked, steps=STEPS + 1))


# --- refused -------------------------------------------------------------------------------------


def test_a_model_without_prompts(tmp_path, picture):
    unconditional = Denoiser.load(tiny_unconditional(tmp_path / "ddpm"))
    with pytest.raises(MethodError, match="ddpm reads no prompts"):
        drawer_of(star(picture), unconditional).check(unconditional)


def test_no_steps(picture):
    with pytest.raises(QueryError, match="steps=0"):
        Local(Concept(PROMPT, "star"), picture, steps=0)


ASK = f"concept {{index}} '{PROMPT}' --local {{star}} --out {{out}} "
REFUSED = {
    "missing": (
        ASK + "--concept star --local {folder}/none.png",
        "cannot read the picture '{folder}",
    ),
    "no picture": (ASK + "--concept star --local {folder}/text.png", "text.png': it is no image"),
    "word": (ASK + "--concept moon", "--concept 'moon' is not in the prompt"),
    "size": (ASK + "--concept star --mask {folder}/other.png", "is 20x20, the picture is 16x16"),
    "black": (ASK + "--concept star --mask {folder}/black.png", "is black all over"),
    "mask alone": (
        f"concept {{index}} '{PROMPT}' --concept star --mask {{folder}}/half.png",
        "--mask is a part of the picture of --local",
    ),
    "context": (
        ASK + "--concept star --context {folder}/contexts",
        "the context 'a moon' does not hold 'star'",
    ),
    "method": (
        ASK + "--concept star --method d-trak",
        "d-trak cannot be asked for a concept as one image shows it (--local)",
    ),
    "reward": (ASK + "--reward a:b", "--reward and --local are different questions"),
    "minus": (ASK + "--minus 'a moon'", "--minus does not go with --local"),
    "nothing": (f"concept {{index}} '{PROMPT}'", "nothing is asked for: give --concept or"),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model, tiny_images):
    folder = tmp_path_factory.mktemp("local") / "index"
    result = headwater("index", tiny_model, tiny_images, folder, *FAST)
    assert result.code == 0, result.err
    return folder


@pytest.mark.parametrize("command, said", REFUSED.values(), ids=REFUSED)
def test_refused(index, tmp_path, picture, command, said):
    (picture.parent / "contexts").write_text("a red star\na moon\ta house\n")
    places = dict(index=index, star=picture, folder=picture.parent, out=tmp_path / "out")
    code, out, err = astuple(headwater(*(part.format(**places) for part in shlex.split(command))))
    assert (code, out) == (2, "")
    assert err.startswith("headwater: ") and err.count("\n") == 1, err
    assert said.format(**places) in err
    assert not (tmp_path / "out").exists()


# --- answered ------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Learning in a few steps."""
    learn = textual_inversion.learn_token

    def few(denoiser, x0, name, prompts, learning, **options):
        return learn(denoiser, x0, name, prompts, replace(learning, steps=STEPS), **options)

    monkeypatch.setattr(lesson, "learn_token", few)


def test_an_answer(index, picture, tiny_model, tmp_path, quick):
    mask = picture.with_name("half.png")
    command = ["concept", index, PROMPT, "--local", picture, "--mask", mask, "--draws", 2, "--json"]
    command += ["--concept", "star", "--concept", "hatched"]
    code, out, err = astuple(headwater(*command, "--out", tmp_path / "first"))
    assert code == 0, err
    answer = json.loads(out)
    first, second = answer["results"]
    assert [first["question"], first["title"], second["title"]] == [
        "local",
        "this star",
        "this hatched",
    ]
    assert first["query"]["picture"] == str(picture) and first["query"]["mask"] == str(mask)
    assert answer["prompt"] == PROMPT and answer["provenance"]["picture"] == {"file": str(picture)}
    folder = tmp_path / "first"
    assert Image.open(folder / "query.png").tobytes() == Image.open(picture).tobytes()
    pipe = StableDiffusionPipeline.from_pretrained(tiny_model)
    for words in ("star", "hatched"):
        path = folder / f"this-{words}/token.safetensors"
        assert (folder / f"this-{words}/scores.parquet").exists()
        pipe.load_textual_inversion(path)
        assert pipe.tokenizer.convert_tokens_to_ids(f"<{words}>") == len(pipe.tokenizer) - 1

    code, out, err = astuple(headwater(*command, "--out", tmp_path / "again"))
    assert code == 0 and err.count("using the query gradient computed before") == 2
    assert json.loads(out)["results"][0]["top"] == first["top"]


def test_the_whole_picture_is_answered(index, picture, tmp_path, quick):
    command = ["concept", index, "", "--local", picture, "--draws", 2, "--out", tmp_path / "out"]
    code, out, err = astuple(headwater(*command))
    assert code == 0, err
    assert "\nthis picture\n" in out and f"learned from {picture.name}" in out
    assert (tmp_path / "out/this-picture/token.safetensors").exists()


def test_a_method_that_asks_nothing_learns_nothing(index, picture, tmp_path, monkeypatch):
    monkeypatch.delattr(lesson, "learn_token")
    command = ["concept", index, PROMPT, "--concept", "star", "--local", picture]
    result = headwater(*command, "--method", "random", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert (tmp_path / "out/this-star/top.png").exists()
    assert not (tmp_path / "out/this-star/token.safetensors").exists()
