"""Losses under captions against a plain loop in float64; and that none is computed twice."""

import shutil

import pytest
import torch
from support.tiny import tiny_folder

import headwater
from headwater import Denoiser, Session
from headwater.attribution.scorers.content import caption_losses as module
from headwater.attribution.scorers.content.caption_losses import best_caption, caption_losses
from headwater.attribution.scorers.content.sequential import Course
from headwater.features.spec import ProbeSpec
from headwater.models.sampling import seeded_noise

N = 5
SPEC = ProbeSpec((249, 749), seed=3)
TEXTS = [["a red star", f"a star {row}", "a house"] for row in range(N)]


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("losses")
    data = headwater.load_dataset(tiny_folder(folder / "images", N))
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    return Session(headwater.build_index(denoiser, data, folder / "index", method="pixel-dot"))


@pytest.fixture
def empty(session):
    """The session, with nothing kept."""
    shutil.rmtree(session.queries, ignore_errors=True)
    return session


@pytest.fixture
def computed(monkeypatch):
    """Images and captions of each call that computed some."""
    calls, compute = [], module._losses

    def counted(resources, reader, rows, texts, spec):
        calls.append((list(rows), [list(own) for own in texts]))
        return compute(resources, reader, rows, texts, spec)

    monkeypatch.setattr(module, "_losses", counted)
    monkeypatch.setattr(module.BatchSize, "_find", lambda self, one: setattr(self, "_unknown", 0))
    monkeypatch.setattr(module, "BLOCK", 2)
    return calls


def plain_losses(session, rows, texts, spec):
    """One image, one caption, one timestep at a time."""
    denoiser, index = session.denoiser, session.index
    found = torch.zeros(len(spec.timesteps), len(rows), len(texts[0]), dtype=torch.float64)
    for i, row in enumerate(rows):
        x0 = denoiser.encode_images([index.training_set.image(row)])
        for j, text in enumerate(texts[i]):
            condition = denoiser.encode_captions([text])
            for k, t in enumerate(spec.timesteps):
                key = f"{spec.seed}|{index.samples[row].id}|{t}|0"
                noise = seeded_noise(denoiser.latent_shape, key).double()[None]
                a = denoiser.schedule.a[t]
                xt = a * x0 + (1 - a.square()).sqrt() * noise
                with torch.no_grad():
                    eps = denoiser.network(xt, t, **condition.tensors).sample
                found[k, i, j] = (eps - noise).square().mean()
    return found


def test_losses_are_those_of_a_plain_loop(empty):
    rows = [3, 0, 4]
    ours = caption_losses(empty, rows, TEXTS[:3], SPEC)
    exact = plain_losses(empty, rows, TEXTS[:3], SPEC)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-7)
    assert (exact[..., 0] - exact[..., 2]).abs().min() > 1e-5  # captions tell


def test_nothing_is_computed_twice(empty, computed):
    first = caption_losses(empty, range(N), TEXTS, SPEC)
    assert [rows for rows, _ in computed] == [[0], [1], [2], [3], [4]]
    computed.clear()
    assert torch.equal(caption_losses(empty, range(N), TEXTS, SPEC), first)
    assert not computed
    more = [[*own, "a moon"] for own in TEXTS]
    again = caption_losses(empty, range(N), more, SPEC)
    assert torch.equal(again[..., :3], first)
    assert all(texts == [["a moon"]] for _, texts in computed) and len(computed) == N
    computed.clear()
    caption_losses(empty, range(N), TEXTS, ProbeSpec((249, 749), seed=4))  # other noise
    assert len(computed) == N


def test_an_interruption_loses_no_more_than_a_block(empty, computed, monkeypatch):
    whole = caption_losses(empty, range(N), TEXTS, SPEC)
    shutil.rmtree(empty.queries)
    computed.clear()
    compute = module._losses

    def killed(resources, reader, rows, texts, spec):
        if rows == [3]:
            raise KeyboardInterrupt
        return compute(resources, reader, rows, texts, spec)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_losses", killed)
        caption_losses(empty, range(N), TEXTS, SPEC)
    computed.clear()
    assert torch.equal(caption_losses(empty, range(N), TEXTS, SPEC), whole)
    assert [rows for rows, _ in computed] == [[2], [3], [4]]  # of blocks of two


def test_losses_do_not_depend_on_the_batch(empty, monkeypatch):
    together = caption_losses(empty, range(N), TEXTS, SPEC)
    shutil.rmtree(empty.queries)
    monkeypatch.setattr(module, "BLOCK", 1)
    apart = caption_losses(empty, range(N), TEXTS, SPEC)
    torch.testing.assert_close(apart, together, rtol=1e-6, atol=1e-7)


def test_the_best_caption_is_that_of_the_losses(empty, monkeypatch):
    """Block by block, each kept."""
    course = Course([1, 0], [0.0, 0.0])  # the later timestep alone decides
    exact = plain_losses(empty, range(N), TEXTS, SPEC)[1]
    monkeypatch.setattr(module, "BLOCK", 2)
    found, wanted = best_caption(empty, range(N), TEXTS, course, SPEC)
    assert found.tolist() == (exact[:, 1:] > exact[:, :1]).all(1).tolist()
    assert 2 * N <= wanted <= 3 * N
    monkeypatch.setattr(module, "_best", lambda *_: pytest.fail("computed twice"))
    again, counted = best_caption(empty, range(N), TEXTS, course, SPEC)
    assert torch.equal(again, found) and counted == wanted
    assert len(best_caption(empty, [], [], course, SPEC)[0]) == 0
