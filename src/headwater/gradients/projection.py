r"""Random projections of per-sample gradients, layer by layer, unbiased: E ||P g||^2 = ||g||^2.

`PROJECTIONS` is the table; `docs/projections.md` compares them. Each adds a layer's projected
gradients to a row of k features and returns their exact, unprojected norms. What a layer's
projection does depends on its seed (the run's seed and the layer's name) and on nothing drawn
before it, so that E <P_l g_l, P_m g_m> = 0 for layers l and m.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ParameterError
from headwater.gradients.blocks import Form, forms_as_they_are, rows_at_once
from headwater.gradients.count_sketch import Place, add_around, sketched
from headwater.gradients.layers import Call, factors, is_outer_product, size, widened

# Adds the projection of a layer's gradient (of its calls) to rows of features, in place, and
# returns the gradient's norms: f(out [b, k], calls) -> [b].
Adder = Callable[[Tensor, Sequence[Call]], Tensor]
Forms = Mapping[str, Form]


@dataclass(frozen=True)
class Projection:
    """P of all attributed layers: `add[layer](out, calls)` adds P g and returns ||g||."""

    dim: int
    add: Mapping[str, Adder]


def make_projection(
    name: str,
    layers: Mapping[str, nn.Module],
    dim: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> Projection:
    """The projection of this name for these layers, into `dim` features.

    Raises:
        ParameterError: no such projection, or a `dim` that does not suit it.
    """
    return project(name, forms_as_they_are(layers), dim, seed, device)


def project(
    name: str, forms: Forms, dim: int, seed: int, device: torch.device | str = "cpu"
) -> Projection:
    """The same of gradients that come in these forms.

    Raises:
        ParameterError: no such projection, or a `dim` that does not suit it.
    """
    require_dim(dim, sum(form.size for form in forms.values()), name)
    return Projection(dim, PROJECTIONS[name](forms, dim, seed, torch.device(device)))


def side_by_side(projections: Sequence[Projection]) -> Projection:
    """Several projections of the same layers at once, features of each after those before it.

    Norms are those of the first.
    """
    dims = [projection.dim for projection in projections]
    adders = {
        layer: [projection.add[layer] for projection in projections] for layer in projections[0].add
    }
    add = {layer: partial(_add_side_by_side, each, dims) for layer, each in adders.items()}
    return Projection(sum(dims), add)


def _add_side_by_side(
    adders: Sequence[Adder], dims: Sequence[int], out: Tensor, calls: Sequence[Call]
) -> Tensor:
    parts = zip(adders, out.split(list(dims), 1), strict=True)
    norms = [add(part, calls) for add, part in parts]
    return norms[0]


def require_dim(dim: int, parameters: int, name: str = "count-sketch") -> None:
    """Refuse a projection that there is not, or that cannot have `dim` features.

    Raises:
        ParameterError: names what would do.
    """
    if name not in PROJECTIONS:
        raise ParameterError(f"--projection {name!r} is not one of {', '.join(PROJECTIONS)}")
    if not 1 <= dim <= parameters:
        raise ParameterError(
            f"--dim {dim} must lie between 1 and {parameters}, the number of attributed parameters"
        )
    if name == "identity" and dim != parameters:
        raise ParameterError(
            f"--projection identity keeps all {parameters} parameters: leave --dim {dim} out"
        )


def layer_seed(seed: int, layer: str) -> int:
    """A 63-bit seed that belongs to this run and layer."""
    digest = hashlib.blake2b(f"{seed}|{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


# --- projections of a gradient that is formed for a moment ----------------------------------------


def _add_formed(form: Form, place: Place, out: Tensor, calls: Sequence[Call]) -> Tensor:
    parts = list(form.blocks(calls))
    rows = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    place(out, rows)
    return torch.linalg.vector_norm(rows, dim=1)


def _streamed(form: Form, places: Sequence[Place]) -> Adder:
    """The same block by block; a place for each of them."""
    one = len(places) == 1
    return partial(_add_formed, form, places[0]) if one else partial(_add_blocks, form, places)


def _add_blocks(form: Form, places: Sequence[Place], out: Tensor, calls: Sequence[Call]) -> Tensor:
    norms = []
    for place, rows in zip(places, form.blocks(calls), strict=True):
        place(out, rows)
        norms.append(torch.linalg.vector_norm(rows, dim=1))
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)


def _count_sketch(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """Coordinate j is added to feature h(j) with sign s(j) (Charikar et al. 2002)."""
    return {
        name: _sketch(form, dim, layer_seed(seed, name), device) for name, form in forms.items()
    }


def _sketch(form: Form, dim: int, seed: int, device: torch.device) -> Adder:
    return _streamed(form, sketched(form.sizes, dim, seed, device))


def _mask(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """k_l coordinates of layer l are kept, times sqrt(d_l / k_l); k_l is l's share of k."""
    shares = _shares({name: form.size for name, form in forms.items()}, dim)
    adders, start = {}, 0
    for name, form in forms.items():
        generator = torch.Generator().manual_seed(layer_seed(seed, name))
        chosen = torch.randperm(form.size, generator=generator)[: shares[name]].to(device)
        scale = math.sqrt(form.size / shares[name])
        adders[name] = _streamed(form, _kept(chosen, start, scale, form.sizes))
        start += shares[name]
    return adders


def _kept(chosen: Tensor, start: int, scale: float, sizes: Sequence[int]) -> list[Place]:
    """The chosen coordinates, times the scale, in features from `start` on; block by block."""
    places = []
    for first, end in pairwise(accumulate(sizes, initial=0)):
        (inside,) = ((chosen >= first) & (chosen < end)).nonzero(as_tuple=True)
        places.append(partial(_add_kept, chosen[inside] - first, inside + start, scale))
    return places


def _add_kept(
    coordinates: Tensor, features: Tensor, scale: float, out: Tensor, rows: Tensor
) -> None:
    out[:, features] += rows.index_select(1, coordinates) * scale


def _shares(sizes: Mapping[str, int], dim: int) -> dict[str, int]:
    """`dim` shared out in proportion to the sizes, at least 1 each, by the largest remainders."""
    if dim < len(sizes):
        raise ParameterError(
            f"--dim {dim} is less than the {len(sizes)} layers, and a mask keeps a coordinate of "
            "each: raise it"
        )
    rest = max(1, sum(sizes.values()) - len(sizes))
    exact = {name: (dim - len(sizes)) * (d - 1) / rest for name, d in sizes.items()}
    shares = {name: 1 + int(part) for name, part in exact.items()}
    left = dim - sum(shares.values())
    for name in sorted(exact, key=lambda name: int(exact[name]) - exact[name])[:left]:
        shares[name] += 1
    return shares


def _identity(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """Every coordinate is a feature."""
    adders, start = {}, 0
    for name, form in forms.items():
        every = torch.arange(form.size, device=device)
        adders[name] = _streamed(form, _kept(every, start, 1.0, form.sizes))
        start += form.size
    return adders


def _gaussian(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """Independent normal entries of variance 1/k."""
    return _dense(torch.randn, forms, seed)


def _rademacher(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """Independent signs, times sqrt(1/k)."""
    return _dense(_signs, forms, seed)


def _signs(*shape: int, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def _dense(draw: Callable[..., Tensor], forms: Forms, seed: int) -> dict[str, Adder]:
    """A d x k matrix of each layer."""
    return {
        name: partial(_add_formed, form, partial(_add_product, draw, layer_seed(seed, name)))
        for name, form in forms.items()
    }


def _add_product(draw: Callable[..., Tensor], seed: int, out: Tensor, rows: Tensor) -> None:
    """By a matrix drawn anew for every batch, in pieces of 64 MB: it would not fit in memory."""
    dim, generator = out.shape[1], torch.Generator().manual_seed(seed)
    for part in rows.to(out.dtype).split(max(1, 2**24 // dim), dim=1):
        piece = draw(part.shape[1], dim, generator=generator)
        out.addmm_(part, piece.to(out), alpha=dim**-0.5)


# --- a projection that never forms the gradient ---------------------------------------------------


def _factored(forms: Forms, dim: int, seed: int, device: torch.device) -> dict[str, Adder]:
    """P = A (x) B on g = sum over tokens of gy x^T: the sum of (A gy)(B x)^T, p x q numbers.

    A [o, p] and B [i, q] have normal entries of variance 1/p and 1/q, p q <= k. A layer that is no
    such sum (norms, embeddings, grouped and transposed convolutions) is sketched.
    """
    return {
        name: _two_sided(form.layer, dim, layer_seed(seed, name), device)
        if is_outer_product(form.layer)
        else _sketch(form, dim, layer_seed(seed, name), device)
        for name, form in forms.items()
    }


def _two_sided(layer: nn.Module, dim: int, seed: int, device: torch.device) -> Adder:
    outputs = next(layer.parameters()).shape[0]
    inputs = size(layer) // outputs  # the bias is one more
    p = min(outputs, math.isqrt(dim))
    q = min(inputs, dim // p)
    p = min(outputs, dim // q)
    generator = torch.Generator().manual_seed(seed)
    left = (torch.randn(outputs, p, generator=generator) / p**0.5).to(device)
    right = (torch.randn(inputs, q, generator=generator) / q**0.5).to(device)
    start = int(torch.randint(dim, (), generator=generator))
    return partial(_add_two_sided, layer, (left, right), start)


def _add_two_sided(
    layer: nn.Module,
    sides: tuple[Tensor, Tensor],
    start: int,
    out: Tensor,
    calls: Sequence[Call],
) -> Tensor:
    left, right = sides
    pairs = [factors(layer, x, gy) for x, gy in calls]
    x, gy = (torch.cat(side, 1) for side in zip(*pairs, strict=True))  # [b, t, i], [b, t, o]
    projected = (gy @ left.to(gy)).transpose(1, 2) @ (x @ right.to(x))  # [b, p, q]
    add_around(out, projected.flatten(1).to(out.dtype), start)
    return _norm_of_sum(widened(x), widened(gy))


def _norm_of_sum(x: Float[Tensor, "b t i"], gy: Float[Tensor, "b t o"]) -> Float[Tensor, "..."]:
    """||sum over t of gy_t x_t^T||, exact: by the t x t inner products, or by forming it.

    Not all of it at once: in blocks of rows.
    """
    t, i, o = x.shape[1], x.shape[2], gy.shape[2]
    if t * (i + o) < i * o:
        square = ((x @ x.transpose(1, 2)) * (gy @ gy.transpose(1, 2))).sum((1, 2))
        return square.clamp_min(0).sqrt()
    parts = gy.transpose(1, 2).split(rows_at_once(i), dim=1)
    norms = [torch.linalg.vector_norm(part @ x, dim=(1, 2)) for part in parts]
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)


PROJECTIONS = {
    "count-sketch": _count_sketch,
    "factored": _factored,
    "mask": _mask,
    "gaussian": _gaussian,
    "rademacher": _rademacher,
    "identity": _identity,
}
