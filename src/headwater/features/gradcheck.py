"""Before a long run: are the gradients right on this model? Two samples, against plain autograd.

Hooks see what a layer's `forward` is given and returns. A model that uses a layer's weight without
calling the layer, ties weights, or mixes the samples of a batch, gets wrong numbers from them, and
nothing would tell. So a float64 copy of the network is asked twice for J^T delta: once by the
engine, once by `torch.autograd.grad` to the weights, one sample at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import SelfCheckError
from headwater.gradients.layers import parameters_of, size
from headwater.gradients.vjp import Tape, unit_rms
from headwater.models.condition import Condition
from headwater.models.denoiser import Denoiser
from headwater.models.patches import for_gradients
from headwater.models.sampling import seeded_noise
from headwater.runtime.batch_size import out_of_memory

# Of a layer's gradient, relative. Float64 would do with 1e-8, but norms and attention of some
# networks compute in float32 whatever they are given, and then sums agree to about 1e-7.
EXACT = 1e-6
NEAR = 0.2  # of the whole gradient, in the type that the run will use
# Parameters whose gradients are compared; four times as many float64 numbers are held.
AT_MOST = 50_000_000
# Fewer probes than this take less time than twenty times the check.
WORTH_IT = 1000


def self_check(
    denoiser: Denoiser,
    layers: Iterable[str],
    x0: Float[Tensor, "2 c *f h w"],
    condition: Condition | None,
) -> str:
    """Compare per-sample gradients with autograd's, and say in one line how close they are.

    Raises:
        SelfCheckError: names the layer that is wrong, or the precision that is too low.
    """
    every = list(layers)
    names = _spread(denoiser, every)
    try:
        exact_twin = _in_float64(denoiser)
        exact = _by_engine(exact_twin, names, x0, condition)
        brute = _by_autograd(exact_twin, names, x0, condition)
        del exact_twin
        rough = _by_engine(denoiser, names, x0, condition)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return "self-check left out: no memory for a float64 copy of the network"
    # A layer whose gradient is zero next to the others' is compared on their scale.
    whole = torch.cat([rows.flatten() for rows in brute.values()]).norm()
    errors = {
        name: ((exact[name] - rows).norm() / rows.norm().clamp_min(1e-6 * whole)).item()
        for name, rows in brute.items()
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= EXACT:
        raise SelfCheckError(
            f"the gradient of layer {worst} is not what autograd finds (off by "
            f"{errors[worst]:.1e}): the model does more with it than call it; leave it out with "
            "--parameters, or give --no-self-check"
        )
    near = torch.cat([(rough[name].double() - exact[name]).flatten() for name in names]).norm()
    near = (near / whole.clamp_min(torch.finfo(torch.float64).tiny)).item()
    dtype = str(denoiser.dtype).removeprefix("torch.")
    if not near <= NEAR:
        raise SelfCheckError(
            f"gradients in {dtype} are off by {near:.0%} on this model: give --dtype float32, or "
            "--no-self-check"
        )
    count = f"{len(names)} of {len(every)}" if len(names) < len(every) else f"{len(every)}"
    return (
        f"self-check: {count} layers exact to {errors[worst]:.0e} against float64 autograd, "
        f"{dtype} within {near:.0e}"
    )


def _spread(denoiser: Denoiser, names: Sequence[str]) -> list[str]:
    """The layers to check: all, or as many, spread over the network, as are `AT_MOST` numbers."""
    sizes = [size(denoiser.network.get_submodule(name)) for name in names]
    stride = -(-sum(sizes) // AT_MOST)
    chosen = [
        name for name, d in zip(names[::stride], sizes[::stride], strict=True) if d <= AT_MOST
    ]
    return chosen or list(names[:1])


def _in_float64(denoiser: Denoiser) -> Denoiser:
    """The same denoiser with a float64 copy of its network, on a device that has that type."""
    twin = copy.copy(denoiser)
    twin.device = torch.device("cpu") if denoiser.device.type == "mps" else denoiser.device
    twin.network = copy.deepcopy(denoiser.network)
    torch.nn.Module.to(twin.network, twin.device, torch.float64)  # as in Denoiser
    twin.dtype = twin.latent_dtype = torch.float64
    return twin


def _asked(denoiser: Denoiser, x0: Tensor, condition: Condition | None):
    """One noisy point and one random delta for each sample, the same in every precision."""
    t = len(denoiser.schedule) // 2
    point, delta = (
        torch.stack([seeded_noise(x0.shape[1:], "self-check", what, i) for i in range(len(x0))])
        for what in ("point", "delta")
    )
    x0, point, delta = (a.to(denoiser.device, denoiser.latent_dtype) for a in (x0, point, delta))
    c = None if condition is None else condition.to(denoiser.device, denoiser.dtype)
    return denoiser.schedule.noised(x0, point, t), t, c, unit_rms(delta)[0]


def _by_engine(denoiser: Denoiser, names, x0, condition) -> dict[str, Tensor]:
    xt, t, c, delta = _asked(denoiser, x0, condition)
    layers = {name: denoiser.network.get_submodule(name) for name in names}
    with for_gradients(denoiser, list(layers.values())), Tape(layers) as tape:
        out = denoiser.predict(xt.requires_grad_(), t, c)
        found = {name: rows.to(x0.device) for name, rows in tape.gradients(out, delta)}
    for name in found.keys() ^ layers.keys():  # a layer that was not called
        found[name] = x0.new_zeros(len(x0), size(layers[name]))
    return found


def _by_autograd(denoiser: Denoiser, names, x0, condition) -> dict[str, Tensor]:
    xt, t, c, delta = _asked(denoiser, x0, condition)
    layers = {name: denoiser.network.get_submodule(name) for name in names}
    denoiser.network.eval().requires_grad_(False)
    weights = {name: parameters_of(layer) for name, layer in layers.items()}
    flat = [weight.requires_grad_() for own in weights.values() for weight in own]
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for i in range(len(xt)):
        out = denoiser.predict(xt[i : i + 1], t, None if c is None else c[i : i + 1])
        found = iter(torch.autograd.grad(out, flat, delta[i : i + 1], allow_unused=True))
        for name, own in weights.items():
            parts = [torch.zeros_like(w) if g is None else g for w, g in zip(own, found)]  # noqa: B905 - `found` goes on
            rows[name].append(torch.cat([part.flatten() for part in parts]))
    return {name: torch.stack(parts).to(x0.device) for name, parts in rows.items()}
