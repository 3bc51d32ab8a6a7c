"""Before a long run: are the gradients right on this model? Two samples, against plain autograd.

Hooks see what a layer's `forward` is given and returns. A model that uses a layer's weight without
calling the layer, ties weights, or mixes the samples of a batch, gets wrong numbers from them, and
nothing would tell. So a float64 copy of the network (`short_twin`) is asked twice for J^T delta:
once by the engine, once by `torch.autograd.grad` to the weights, one sample at a time. What runs
under `torch.no_grad` has a gradient in neither, and is looked for by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.errors import SelfCheckError
from headwater.features.short_twin import LARGE, short_twin
from headwater.gradients.bare import Bare
from headwater.gradients.layers import attributable, parameters_of, size
from headwater.gradients.parameters import LeftOut, left_out
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

    Where these are all layers that have gradients, the line ends in what share of the gradient's
    norm parameters have that stand in none of them.

    Raises:
        SelfCheckError: names the layer that is wrong or has no gradients, or the precision that is
            too low.
    """
    try:
        layers = list(layers)
        twin = _twin(denoiser, layers)
        there = dict(attributable(twin.network)) | twin.adapters
        every = [name for name in layers if name in there]
        condition = _of_twin(twin, condition)
        if not every:
            return "self-check left out: none of these layers is in the first block of its kind"
        names = _spread(twin, every)
        _require_gradients(twin, every, x0, condition)
        rough = _all_by_engine(twin, names, x0, condition)
        _widen(twin)
        exact = _all_by_engine(twin, names, x0, condition)
        brute = _by_autograd(twin, names, x0, condition)
        lost = _left_out(denoiser, twin, every, x0, condition)
        lost += _unchecked(denoiser, layers, every)
        del twin
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
        f"{dtype} within {near:.0e}{lost}"
    )


def _unchecked(denoiser: Denoiser, layers: Sequence[str], every: Sequence[str]) -> str:
    """A word on adapters of encoders that are too large to be copied."""
    left = (denoiser.adapters.keys() & set(layers)) - set(every)
    return f"; {len(left)} layers of large text encoders are not checked" if left else ""


def _spread(denoiser: Denoiser, names: Sequence[str]) -> list[str]:
    """The layers to check: all, or as many, spread over the network, as are `AT_MOST` numbers."""
    sizes = [size(layer) for layer in denoiser.layers_named(names).values()]
    stride = -(-sum(sizes) // AT_MOST)
    chosen = [
        name for name, d in zip(names[::stride], sizes[::stride], strict=True) if d <= AT_MOST
    ]
    return chosen or list(names[:1])


def _twin(denoiser: Denoiser, layers: Sequence[str]) -> Denoiser:
    """The same denoiser with a copy of its network, of large ones a short one.

    With copies of the encoders too, where layers of theirs are among these; if they are not large.
    """
    twin, encoders = copy.copy(denoiser), denoiser.word_encoders()
    twin.adapters, twin.words_have_graph = {}, False
    wanted = bool(denoiser.adapters.keys() & set(layers))
    numbers = (p.numel() for part in encoders.values() for p in part.parameters())
    if wanted and sum(numbers) <= LARGE:
        pipe = copy.copy(denoiser.pipe)
        for name, part in encoders.items():
            setattr(pipe, name, copy.deepcopy(part))
        own = denoiser.source, denoiser.device, denoiser.dtype
        twin = Denoiser(pipe, *own, **denoiser.options).with_graph_of_words()
    twin.network = short_twin(denoiser.network)
    return twin


def _of_twin(twin: Denoiser, condition: Condition | None) -> Condition | None:
    """The condition as the twin would encode it again, if it has encoders of its own."""
    words = twin.family.words
    if condition is None or words is None:
        return condition
    texts = condition.texts if twin.words_have_graph else ()
    return replace(condition, texts=texts, encode=words.encode)


def _widen(twin: Denoiser) -> None:
    """To float64, on a device that has that type."""
    twin.device = torch.device("cpu") if twin.device.type == "mps" else twin.device
    encoders = twin.word_encoders().values() if twin.words_have_graph else ()
    for part in (twin.network, *encoders):
        torch.nn.Module.to(part, twin.device, torch.float64)  # as in Denoiser
    twin.dtype = twin.latent_dtype = torch.float64


def _note_silent(silent: list[str], name: str, *_: object) -> None:
    if not torch.is_grad_enabled():
        silent.append(name)


def _require_gradients(denoiser: Denoiser, names: Sequence[str], x0, condition) -> None:
    """Refuse layers that the network calls under `torch.no_grad`."""
    silent: list[str] = []
    handles = []
    for name, layer in denoiser.layers_named(names).items():
        called = layer.owner if isinstance(layer, Bare) else layer
        listener = partial(_note_silent, silent, name)
        handles.append(called.register_forward_hook(listener))
    xt, t, c, _ = _asked(denoiser, x0[:1], None if condition is None else condition[:1])
    try:
        with torch.enable_grad():
            denoiser.predict(xt, t, c)
    finally:
        for handle in handles:
            handle.remove()
    if silent:
        raise SelfCheckError(
            f"the model computes layer {silent[0]} under torch.no_grad, so nothing of it would be "
            "attributed: leave it out with --parameters, or give --no-self-check"
        )


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


def _by_engine(denoiser: Denoiser, names, x0, condition) -> Iterator[tuple[str, Tensor]]:
    """(layer, a row for each sample), one after the other; none of a layer that was not called."""
    xt, t, c, delta = _asked(denoiser, x0, condition)
    layers = denoiser.layers_named(names)
    with for_gradients(denoiser, list(layers.values())), Tape(layers) as tape:
        out = denoiser.predict(xt.requires_grad_(), t, c)
        yield from tape.gradients(out, delta)


def _all_by_engine(denoiser: Denoiser, names, x0, condition) -> dict[str, Tensor]:
    found = {name: rows.to(x0.device) for name, rows in _by_engine(denoiser, names, x0, condition)}
    for name, layer in denoiser.layers_named(names).items():
        if name not in found:
            found[name] = x0.new_zeros(len(x0), size(layer))
    return found


def _by_autograd(denoiser: Denoiser, names, x0, condition) -> dict[str, Tensor]:
    layers = denoiser.layers_named(names)
    weights = {name: parameters_of(layer) for name, layer in layers.items()}
    flat = [weight for own in weights.values() for weight in own]
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    for found in _sample_by_sample(denoiser, flat, x0, condition):
        parts = iter(found)
        for name, own in weights.items():
            rows[name].append(torch.cat([next(parts).flatten() for _ in own]))
    return {name: torch.stack(parts).to(x0.device) for name, parts in rows.items()}


def _sample_by_sample(
    denoiser: Denoiser, weights: Sequence[Tensor], x0, condition
) -> Iterator[list[Tensor]]:
    """The gradients by these weights, a list for each sample."""
    xt, t, c, delta = _asked(denoiser, x0, condition)
    denoiser.network.eval().requires_grad_(False)
    for weight in weights:
        weight.requires_grad_()
    for i in range(len(xt)):
        out = denoiser.predict(xt[i : i + 1], t, None if c is None else c[i : i + 1])
        found = torch.autograd.grad(out, weights, delta[i : i + 1], allow_unused=True)
        yield [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]


def _left_out(denoiser: Denoiser, twin: Denoiser, names: Sequence[str], x0, condition) -> str:
    """What no layer attributes, in words, with its share of the gradient's norm on the twin."""
    mixed = denoiser.family.mixed
    lost = left_out(denoiser.network, mixed=mixed)
    if not lost or dict(attributable(twin.network, mixed)).keys() - set(names):
        return ""
    few = ", ".join(part.name for part in lost[:2]) + (", ..." if len(lost) > 2 else "")
    said = f"; left out: {sum(part.numel for part in lost):,} numbers ({few})"
    here = {name: p for name, p in twin.network.named_parameters() if _is_of(name, lost)}
    if sum(parameter.numel() for parameter in here.values()) > AT_MOST:
        return said
    inside = _sum_of_squares(rows for _, rows in _by_engine(twin, names, x0, condition))
    rows = _sample_by_sample(twin, list(here.values()), x0, condition)
    outside = _sum_of_squares(chain.from_iterable(rows))
    share = (outside / max(inside + outside, torch.finfo(torch.float64).tiny)) ** 0.5
    short = len(dict(twin.network.named_modules())) < len(dict(denoiser.network.named_modules()))
    blocks = ", in the first block of each kind" if short else ""
    return f"{said}, {share:.1%} of the gradient's norm{blocks}"


def _sum_of_squares(tensors: Iterable[Tensor]) -> float:
    return sum(tensor.square().sum().item() for tensor in tensors)


def _is_of(name: str, lost: Iterable[LeftOut]) -> bool:
    return any(name == part.name or name.startswith(f"{part.name}.") for part in lost)
