"""A learned token against autograd through diffusers' own table, and what must stay untouched."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
from support.conditions import words_of

from headwater import Denoiser
from headwater.models.sampling import seeded_noise
from headwater.models.textual_inversion import (
    Learning,
    Noised,
    Token,
    encode,
    initial,
    learn_token,
    loss_and_gradient,
    new_name,
    save_token,
)

NAME = "<moon-shape>"
PROMPT = f"a red {NAME} in hatched style"


@pytest.fixture(scope="module")
def denoiser(tiny_model):
    return Denoiser.load(tiny_model, dtype=torch.float64)


@pytest.fixture
def token():
    return Token(NAME, torch.randn(16, dtype=torch.float64))


def with_token(model, token, folder, **options) -> Denoiser:
    """The model with the token loaded by diffusers itself."""
    path = folder / "token.safetensors"
    save_token(path, token)
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.text_encoder.to(token.embedding.dtype)
    pipe.load_textual_inversion(path)
    return Denoiser(pipe, **options)


@pytest.mark.parametrize(
    "masked, pictures",
    [(False, 1), (True, 1), (False, 3), (True, 3)],
    ids=["whole", "masked", "several", "several masked"],
)
def test_the_gradient_is_that_of_the_denoising_loss(
    denoiser, token, tiny_model, tmp_path, masked, pictures
):
    """Autograd to the row of the table that diffusers gives the token; mean over the mask."""
    x0, noise = torch.randn(pictures, 4, 8, 8).double(), torch.randn(3, 4, 8, 8).double()
    mask = torch.rand(1, 1, 8, 8).double().round(decimals=1) if masked else None
    t = 399
    vector = token.embedding.clone().requires_grad_()
    with denoiser.family.words.reader(NAME, vector) as read:
        noised = Noised(x0, noise, t, mask)
        loss, ours = loss_and_gradient(denoiser, vector, read([PROMPT]), noised)

    pipe = with_token(tiny_model, token, tmp_path, dtype=torch.float64).pipe
    table = pipe.text_encoder.get_input_embeddings().weight.requires_grad_()
    ids = pipe.tokenizer(
        [PROMPT] * 3, padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    a = pipe.scheduler.alphas_cumprod[t].double()
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
    eps = pipe.unet(xt, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample
    square = (eps - noise).square().mean(1, keepdim=True)
    weights = torch.ones_like(square) if mask is None else mask.expand_as(square)
    exact = (square * weights).sum() / weights.sum()
    (row,) = torch.autograd.grad(exact, table)[0][[-1]]
    assert loss == pytest.approx(exact.item(), rel=1e-6)  # alpha_bar is in float32 on our side
    assert (ours - row).norm() <= 1e-6 * row.norm() and row.any()


@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_keeps_the_gradient(denoiser, token, tiny_model, dtype, error):
    x0, noise = torch.randn(1, 4, 8, 8), torch.randn(2, 4, 8, 8)
    found = []
    for each in (denoiser, Denoiser.load(tiny_model, dtype=dtype)):
        vector = token.embedding.to(each.latent_dtype).requires_grad_()
        noised = Noised(x0.to(vector.dtype), noise.to(vector.dtype), 399)
        with each.family.words.reader(NAME, vector) as read:
            found.append(loss_and_gradient(each, vector, read([PROMPT]), noised)[1].double())
    assert (found[1] - found[0]).norm() <= error * found[0].norm()


def mean_loss(denoiser, vector, x0) -> float:
    """Over noises that learning does not draw."""
    condition = encode(denoiser, Token(NAME, vector), [PROMPT])
    losses = []
    with torch.no_grad():
        for t in range(99, 1000, 100):
            noise = seeded_noise(x0.shape[1:], "held out", t)[None].to(x0)
            out = denoiser.predict(denoiser.schedule.noised(x0, noise, t), t, condition)
            losses.append((out - noise).square().mean().item())
    return sum(losses) / len(losses)


def test_learning_lowers_the_loss(denoiser):
    x0, told = torch.randn(1, 4, 8, 8).double(), []
    vector = learn_token(denoiser, x0, NAME, [PROMPT], Learning("moon", 60), tick=told.append)
    assert len(told) == 60 and vector.shape == (16,)
    first, last = (mean_loss(denoiser, v, x0) for v in (initial(denoiser, "moon"), vector))
    assert last < first


def test_it_learns_what_several_pictures_share(denoiser):
    """The loss of each falls; which of them a noise is of, is by chance and by the seed."""
    x0 = torch.randn(1, 4, 8, 8).double() + 0.1 * torch.randn(3, 4, 8, 8).double()
    given = (denoiser, x0, NAME, [PROMPT])
    vector = learn_token(*given, Learning("moon", 60))
    for each in x0:
        first, last = (
            mean_loss(denoiser, v, each[None]) for v in (initial(denoiser, "moon"), vector)
        )
        assert last < first
    few, again = (learn_token(*given, Learning("moon", 5)) for _ in range(2))
    assert torch.equal(few, again)
    others = learn_token(denoiser, x0[[0, 0, 0]], NAME, [PROMPT], Learning("moon", 5))
    assert not torch.allclose(few, others)


def test_the_same_seed_gives_the_same_token(denoiser):
    x0, mask = torch.randn(1, 4, 8, 8).double(), torch.zeros(1, 1, 8, 8).double()
    mask[..., :4, :4] = 1

    def learned(**options):
        given = (denoiser, x0, NAME, [PROMPT, f"a {NAME}"])
        return learn_token(*given, Learning("moon", 5, **options))

    again = learned()
    assert torch.equal(learned(), again)
    assert not torch.allclose(learned(seed=1), again)
    assert not torch.allclose(learned(mask=mask), again)


def test_it_begins_from_the_words(denoiser):
    table = denoiser.pipe.text_encoder.get_input_embeddings().weight
    red, moon = denoiser.pipe.tokenizer("red moon").input_ids[1:-1]
    torch.testing.assert_close(initial(denoiser, "moon"), table[moon])
    torch.testing.assert_close(initial(denoiser, "red moon"), table[[red, moon]].mean(0))
    torch.testing.assert_close(initial(denoiser, ""), table.mean(0))


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "stopped"])
def test_the_pipeline_is_as_it_was(tiny_model, stopped):
    denoiser = Denoiser.load(tiny_model)
    pipe = denoiser.pipe
    parts = (pipe.unet, pipe.text_encoder)
    pipe.text_encoder.train()
    next(pipe.unet.parameters()).requires_grad_(False)

    def state():
        return (
            Denoiser(pipe).fingerprint(),
            id(pipe.tokenizer),
            len(pipe.tokenizer),
            dict(pipe.config),
            [p.requires_grad for part in parts for p in part.parameters()],
            [p.grad for part in parts for p in part.parameters()],
            [m.training for part in parts for m in part.modules()],
            [name for part in parts for m in part.modules() for name in vars(m)],
        )

    def stop(loss):
        if stopped:
            raise KeyboardInterrupt

    before, x0 = state(), torch.randn(1, 4, 8, 8)
    try:
        learn_token(denoiser, x0, NAME, [PROMPT], Learning("moon", 2), tick=stop)
    except KeyboardInterrupt:
        assert stopped
    assert state() == before


SAID = (PROMPT, f"{NAME}", f"A {NAME}, {NAME.upper()} on a wavy background", "a red moon", "")


def test_diffusers_loads_the_file_and_reads_prompts_alike(tiny_model, tmp_path):
    ours, token = Denoiser.load(tiny_model), Token(NAME, torch.randn(16))
    theirs = with_token(tiny_model, token, tmp_path)
    assert load_file(tmp_path / "token.safetensors").keys() == {NAME}
    expected = words_of(theirs.encode_captions(SAID))
    torch.testing.assert_close(words_of(encode(ours, token, SAID)), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(words_of(ours.encode_captions(SAID))[:3], expected[:3], atol=1e-2)


def test_a_name_that_the_tokenizer_has_not(tiny_model, tmp_path):
    pipe = Denoiser.load(shutil.copytree(tiny_model, tmp_path / "model"))
    assert new_name(pipe, "Hatched style") == "<hatched-style>"
    assert new_name(pipe, "<picture>") == "<picture>"
    assert new_name(pipe, "?!") == "<concept>"
    pipe.pipe.tokenizer.add_tokens(["<star>", "<star-2>"])
    assert new_name(pipe, "star") == "<star-3>"
