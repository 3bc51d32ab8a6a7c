"""Frozen weights and swapped forwards: for several threads, nested, and left in any order."""

from threading import Barrier, Thread

import pytest
import torch
from torch import nn

from headwater import Denoiser
from headwater.features.batch import Batch
from headwater.index.config import plan
from headwater.index.machines import extractor
from headwater.models.patches import frozen, remembering, swapped_forward

THREADS, ROUNDS = 4, 6


def in_threads(*functions):
    """Results of all, which begin at the same time; the first error of any."""
    begun, results, errors = Barrier(len(functions)), {}, []

    def run(i, function):
        begun.wait()
        try:
            results[i] = function()
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=run, args=given) for given in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return [results[i] for i in range(len(functions))]


def state(network):
    return (
        [p.requires_grad for p in network.parameters()],
        [m.training for m in network.modules()],
        [name for m in network.modules() for name in vars(m)],
        [len(m._forward_hooks) for m in network.modules()],
    )


@pytest.mark.parametrize("parameters", ["attn2", r"attn2|ff\.net"])
def test_threads_that_take_gradients_of_one_model_get_the_right_rows(tiny_model, parameters):
    """Some of them of the layers that others have swapped."""
    denoiser = Denoiser.load(tiny_model)
    denoiser.network.train()
    before, x0 = state(denoiser.network), torch.randn(THREADS, 1, 4, 8, 8)
    captions = ["a red star", "a fish", "a blue moon", "a shape"]
    conditions = [denoiser.encode_captions([caption]) for caption in captions]
    options = {"method": "concept-trak-unguided", "timesteps": 2, "dim": 64}
    machines = [
        extractor(denoiser, plan(denoiser, parameters=p, **options))
        for p in (parameters, "attn2", parameters, r"ff\.net")
    ]

    def rows(i):
        return machines[i].train_rows(Batch(x0[i], conditions[i], [str(i)])).features

    alone = [rows(i) for i in range(THREADS)]
    for _ in range(ROUNDS):
        together = in_threads(*(lambda i=i: rows(i) for i in range(THREADS)))
        for ours, exact in zip(together, alone, strict=True):
            assert torch.equal(ours, exact)
    assert state(denoiser.network) == before


def test_frozen_lasts_until_the_last_has_left():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    network[0].bias.requires_grad_(False)
    before = state(network)
    first, second = frozen(network), frozen(network)
    with first:
        second.__enter__()
    assert not any(p.requires_grad for p in network.parameters()) and not network[1].training
    second.__exit__(None, None, None)
    assert state(network) == before


def test_swapped_forwards_nest_and_are_left_in_any_order():
    layer, x = nn.Linear(1, 1, bias=False), torch.ones(1, 1)
    nn.init.constant_(layer.weight, 7)
    outer, inner = (swapped_forward(layer, lambda x, n=n: n * x) for n in (2, 3))
    assert layer(x) == 7
    with outer:
        assert layer(x) == 2
        inner.__enter__()
        assert layer(x) == 3
    assert layer(x) == 3
    inner.__exit__(None, None, None)
    assert layer(x) == 7 and "forward" not in vars(layer)


def test_a_swapped_forward_is_its_own_threads_alone():
    layer, x = nn.Identity(), torch.ones(1)
    with swapped_forward(layer, lambda x: 2 * x):
        (elsewhere,) = in_threads(lambda: layer(x))
        assert layer(x) == 2 and elsewhere == 1


def test_a_forward_that_somebody_else_swapped_comes_back():
    """As accelerate does, to bring weights to a device."""
    layer, x = nn.Identity(), torch.ones(1)
    layer.forward = theirs = lambda x: 5 * x
    with swapped_forward(layer, lambda x: 2 * x):
        assert layer(x) == 2
    assert layer(x) == 5 and layer.forward is theirs


def test_a_module_never_lacks_a_forward():
    layer = nn.Identity()

    def again_and_again():
        for _ in range(300):
            with swapped_forward(layer, lambda x: -x):
                assert layer(1) == -1
            assert layer(1) == 1

    in_threads(*[again_and_again] * THREADS)
    assert "forward" not in vars(layer)


def test_it_is_undone_after_an_error():
    layer = nn.Identity()
    with pytest.raises(RuntimeError, match="stop"), swapped_forward(layer, lambda x: -x):
        raise RuntimeError("stop")
    assert layer(1) == 1 and "forward" not in vars(layer)


def test_a_caption_changed_during_a_call_is_another_caption():
    layer = nn.Linear(3, 2)
    with torch.no_grad(), swapped_forward(layer, remembering(layer)):
        for _ in range(20):  # more than are kept, each at an address used before
            x = torch.randn(1, 3)
            torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
