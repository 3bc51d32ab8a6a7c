"""The contenders of `peers.py`: what each is given, and how it makes rows of pictures."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from headwater import Denoiser
from headwater.features.batch import Batch
from headwater.gradients.count_sketch import sketched
from headwater.gradients.layers import size
from headwater.index.config import Recipe, plan
from headwater.index.machines import gradient_extractor

PARAMETERS = "attn2"
PROBES = 160  # pictures times timesteps at once, where one graph holds all timesteps

# Rows of these pictures, [b, k].
Rows = Callable[[list[int]], Tensor]


@dataclass(frozen=True)
class Work:
    """What every contender is given: pictures, noised at each timestep, and what is read.

    `xt` and `target`, what the output should be, are [n, t, c, h, w]; `words` [n, tokens, width].
    """

    denoiser: Denoiser
    layers: Mapping[str, nn.Module]
    batch: Batch
    timesteps: Tensor
    xt: Tensor
    target: Tensor
    words: Tensor

    def part(self, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets and captions of these pictures."""
        return self.xt[rows], self.target[rows], self.words[rows]


def trak(denoiser: Denoiser, timesteps: int, **projection: Any) -> Recipe:
    """The recipe of headwater's index."""
    own: dict[str, Any] = {"method": "trak", "parameters": PARAMETERS, "timesteps": timesteps}
    return plan(denoiser, **own, **projection)


# --- the loss -----------------------------------


def weights_of(work: Work) -> dict[str, Tensor]:
    """The attributed parameters by their names in the network."""
    return {
        f"{name}.{part}": weight.detach()
        for name, layer in work.layers.items()
        for part, weight in layer.named_parameters(recurse=False)
    }


def own_network(work: Work) -> Any:
    """A copy of the network, of which no weight asks for a gradient."""
    return copy.deepcopy(work.denoiser.network).eval().requires_grad_(False)


def mean_loss(network: Any, weights: Any, t: Tensor, *sample: Tensor) -> Tensor:
    """Half the squared error of the output, its mean over the timesteps of one picture."""
    xt, target, words = sample
    read = {"encoder_hidden_states": words.expand(len(t), -1, -1)}
    out = functional_call(network, weights, (xt, t), read).sample
    return (out - target).square().sum() / 2 / len(t)


def in_batches(work: Work, compute: Rows) -> Rows:
    """The same, some pictures at a time, where one graph holds all timesteps."""
    count = max(1, PROBES // len(work.timesteps))

    def rows(part: list[int]) -> Tensor:
        parts = torch.tensor(part).chunk(math.ceil(len(part) / count))
        return torch.cat([compute(few.tolist()) for few in parts])

    return rows


# --- the contenders: each makes, of the work and k (0: unprojected), what computes rows -----------


def headwater_rows(work: Work, dim: int) -> Rows:
    """The extractor of an index."""
    projection = {"dim": dim} if dim else {"projection": "identity"}
    recipe = trak(work.denoiser, len(work.timesteps), **projection)
    machine = gradient_extractor(work.denoiser, recipe)
    return lambda part: machine.train_rows(work.batch.part(part)).features


def torch_rows(work: Work, dim: int) -> Rows:
    """`vmap(grad)` and a count-sketch of the whole row."""
    network, weights = own_network(work), weights_of(work)
    count = sum(weight.numel() for weight in weights.values())
    shortened = sketcher(count, dim) if dim else None

    def loss(weights: dict[str, Tensor], *sample: Tensor) -> Tensor:
        return mean_loss(network, weights, work.timesteps, *sample)

    def rows(part: list[int]) -> Tensor:
        found = vmap(grad(loss), in_dims=(None, 0, 0, 0))(weights, *work.part(part))
        whole = torch.cat([gradient.flatten(1) for gradient in found.values()], 1)
        return shortened(whole) if shortened else whole

    return in_batches(work, rows)


def sketcher(count: int, dim: int) -> Callable[[Tensor], Tensor]:
    """Count-sketches of rows of so many numbers, as an index has them by default."""
    places = sketched([count], dim, 0, torch.device("cpu"))

    def shortened(rows: Tensor) -> Tensor:
        out = rows.new_zeros(len(rows), dim)
        for place in places:
            place(out, rows)
        return out

    return shortened


def traker_rows(work: Work, dim: int, usual: bool = False) -> Rows:
    """`TRAKer.featurize`; rows are read from its store, before it divides them by sqrt(d)."""
    trak, projectors = import_module("trak"), import_module("trak.projectors")
    outputs = import_module("trak.modelout_functions")

    class Denoising(outputs.AbstractModelOutput):
        """The mean loss is the output, so that the loss's gradient by the output is 1."""

        def __init__(self) -> None:
            """Nothing to keep."""

        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, *sample: Tensor) -> Tensor:
            return mean_loss(model, weights | buffers, work.timesteps, *sample)

        def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any):
            return torch.ones(len(batch[0]), 1)

    network, names, folder = own_network(work), weights_of(work), tempfile.TemporaryDirectory()
    own = {"grad_dim": sum(map(size, work.layers.values())), "seed": 0, "device": "cpu"}
    projector = projectors.NoOpProjector(**own)
    if dim:
        own |= {"proj_type": "normal", "block_size": dim}
        projector = None if usual else projectors.BasicProjector(proj_dim=dim, **own)
    if not usual:
        others_as_buffers(network, names)
    traker = trak.TRAKer(
        network, Denoising(), len(work.xt), folder.name, device="cpu", use_half_precision=False,
        proj_dim=dim, projector=projector, grad_wrt=list(names), logging_level=logging.ERROR,
    )  # fmt: skip
    traker.load_checkpoint(network.state_dict(), model_id=0)

    def rows(part: list[int], kept: Any = folder) -> Tensor:
        traker.featurize(work.part(part), inds=np.array(part))
        return torch.tensor(traker.saver.current_store["grads"][part]) * traker.normalize_factor

    return in_batches(work, rows)


def traker_usual_rows(work: Work, dim: int) -> Rows:
    """The same with what traker chooses."""
    return traker_rows(work, dim, usual=True)


def others_as_buffers(network: nn.Module, names: Mapping[str, Tensor]) -> None:
    """All parameters but those of these names become buffers, by which nobody differentiates."""
    for prefix, module in network.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if f"{prefix}.{name}" not in names:
                delattr(module, name)
                module.register_buffer(name, parameter.detach())


def dattri_rows(work: Work, dim: int, kind: str = "normal") -> Rows:
    """The gradient function of an `AttributionTask`, and a projector of dattri's."""
    projection, task = import_module("dattri.func.projection"), import_module("dattri.task")
    network = own_network(work)
    for name in work.layers:
        network.get_submodule(name).requires_grad_(True)

    def loss(weights: dict[str, Tensor], sample: tuple[Tensor, ...]) -> Tensor:
        return mean_loss(network, weights, work.timesteps, *sample)

    own = task.AttributionTask(loss, network, network.state_dict())
    gradients = own.get_grad_loss_func(in_dims=(None, 0))
    weights = tuple(part.detach() for part in own.get_param(layer_split=True)[0])
    count = sum(part.numel() for part in weights)
    projector = projection.BasicProjector(
        count, dim or count, 0, projection.ProjectionType(kind if dim else "identity"),
        torch.device("cpu"), block_size=dim or count,
    )  # fmt: skip

    def rows(part: list[int]) -> Tensor:
        return projector.project(torch.cat(gradients(weights, work.part(part)), 1), ensemble_id=0)

    return in_batches(work, rows)


def dattri_mask_rows(work: Work, dim: int) -> Rows:
    """The same at coordinates drawn at random."""
    return dattri_rows(work, dim, "random_mask")


def bergson_rows(work: Work, dim: int) -> Rows:
    """Its hooks; captions and the first layer's weight ask for a gradient, so that all fire."""
    collectors = import_module("bergson.collector.gradient_collectors")
    network, gradients = own_network(work), import_module("bergson.gradients")
    network.get_submodule(next(iter(work.layers))).requires_grad_(True)
    side = math.isqrt(dim // len(work.layers)) or None
    collector = collectors.StreamingGradientCollector(
        model=network,
        target_modules=set(work.layers),
        processor=gradients.GradientProcessor(projection_dim=side, include_bias=True),
        dtype=torch.float32,
    )

    def rows(part: list[int]) -> Tensor:
        xt, target, words = work.part(part)
        words, total = words.requires_grad_(), torch.zeros(())
        with collector.with_batch():
            for at, t in enumerate(work.timesteps):
                out = network(xt[:, at], t, encoder_hidden_states=words).sample
                ((out - target[:, at]).square().sum() / 2).backward()
                found = [collector.mod_grads[name] for name in work.layers]
                total = total + torch.cat(found if side else unfolded(work, found), 1)
        return total / len(work.timesteps)

    return rows


def unfolded(work: Work, rows: list[Tensor]) -> list[Tensor]:
    """Whole gradients of layers whose bias is a last column: the weight first, then the bias."""
    found = []
    for layer, row in zip(work.layers.values(), rows, strict=True):
        weight: Any = layer.weight
        parts = row.unflatten(1, (len(weight), -1)).split(weight.shape[1], 2)
        found += [part.flatten(1) for part in parts]
    return found


CONTENDERS: dict[str, tuple[Callable[[Work, int], Rows], str]] = {
    "headwater": (headwater_rows, ""),
    "torch": (torch_rows, ""),
    "traker": (traker_rows, "pip install --no-deps traker"),
    "traker-usual": (traker_usual_rows, "pip install --no-deps traker"),
    "dattri": (dattri_rows, "pip install --no-deps dattri"),
    "dattri-mask": (dattri_mask_rows, "pip install --no-deps dattri"),
    "bergson": (bergson_rows, "pip install --no-deps bergson, and what it imports: see --help"),
}
