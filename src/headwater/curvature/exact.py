r"""Influence without a projection: what a question is dotted with is formed image by image.

For a question that is asked once, or to say what a projection costs. (F + lambda)^-1 g_q stands in
memory, as many numbers as the attributed parameters have; of an image no more than a layer's
gradient does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.curvature.whitening import Curvature, in_basis
from headwater.features.extractor import Extractor
from headwater.gradients.blocks import Form
from headwater.gradients.layers import Call
from headwater.gradients.projection import Adder, Projection, project


def unprojected(machine: Extractor, curvature: Curvature) -> Extractor:
    """What makes rows g in the basis, every number its own feature."""
    forms = {name: in_basis(layer, curvature[name]) for name, layer in machine.layers.items()}
    size = sum(form.size for form in forms.values())
    device = machine.denoiser.device
    return replace(machine, projection=project("identity", forms, size, machine.seed, device))


def preconditioned(
    rows: Float[Tensor, "*b d"], machine: Extractor, curvature: Curvature, damping: float
) -> Float[Tensor, "*b d"]:
    """(F + lambda)^-1 g of rows g in the basis."""
    return rows / torch.cat([curvature[name].damped(damping) for name in machine.layers]).to(rows)


def onto(machine: Extractor, curvature: Curvature, questions: Float[Tensor, "q d"]) -> Extractor:
    """What makes rows of dot products with questions in the basis, a feature each."""
    forms = {name: in_basis(layer, curvature[name]) for name, layer in machine.layers.items()}
    parts = questions.split([form.size for form in forms.values()], 1)
    add = {name: _dots(forms[name], part) for name, part in zip(forms, parts, strict=True)}
    return replace(machine, projection=Projection(len(questions), add))


def _dots(form: Form, questions: Float[Tensor, "q n"]) -> Adder:
    return partial(_add_dots, form, questions.split(list(form.sizes), 1))


def _add_dots(form: Form, parts: Sequence[Tensor], out: Tensor, calls: Sequence[Call]) -> Tensor:
    squares = out.new_zeros(len(out))
    for rows, part in zip(form.blocks(calls), parts, strict=True):
        out += rows.to(out.dtype) @ part.T.to(out)
        squares += rows.square().sum(1)
    return squares.sqrt()
