r"""Parameters that stand in no layer: tables of scales and shifts, registers, paddings.

A module makes something p' of such a parameter p alone (another type, one axis more), and then lets
it meet a batch: `table[None] + t`, `tokens.repeat(b, 1, 1)`, `torch.where(mask, words, padding)`.
There p' stands for as many copies of itself as there are samples. So while the module runs, torch's
functions are watched in its thread: what is made of p alone is followed, and where it meets a batch
p' is expanded to a leaf of b copies. The gradient of copy i, pulled back from p' to p, is that of
sample i, whatever the function is. A use that is none of these is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwater.errors import ParameterError

# Parameters that diffusers' networks use so, by their own names.
_NAMES = re.compile(
    r"(^|_)scale_shift_table$|^register_tokens$|^text_embedding_padding$|^pos_embed$"
)
# Where a parameter meets a batch: by numbers at the same place, or by copies of it.
_POINTWISE = ("add", "__add__", "__radd__", "sub", "mul", "__mul__", "__rmul__", "where")
_COPIES = ("expand", "expand_as", "repeat")
# Functions of one tensor, of which another says a place, a size or a type alone.
_OF_FIRST = ("__getitem__", "index_select", "to", "type_as", "expand_as", "view_as")


class Bare(nn.Module):
    """A parameter in the place of a layer: what takes layers takes it.

    Attributes:
        weight: the parameter itself.
        owner: the module that holds it; no part of this one.
    """

    def __init__(self, name: str, owner: nn.Module, weight: nn.Parameter) -> None:
        """Wrap the parameter of this name in the network."""
        super().__init__()
        self.name = name
        self.weight = weight
        self._owner = (owner,)  # in a tuple, or torch would take it for a part

    @property
    def owner(self) -> nn.Module:
        """The module that uses it."""
        return self._owner[0]


def bare_parameters(name: str, module: nn.Module) -> Iterator[tuple[str, Bare]]:
    """(name, parameter) of those that a module of this name holds, beside modules of its own.

    >>> block = nn.Module()
    >>> block.scale_shift_table, block.other = nn.Parameter(torch.ones(6, 2)), nn.Linear(2, 2)
    >>> [name for name, _ in bare_parameters("blocks.0", block)]
    ['blocks.0.scale_shift_table']
    """
    for key, parameter in module.named_parameters(recurse=False):
        if _NAMES.search(key) and any(True for _ in module.children()):
            full = f"{name}.{key}" if name else key
            yield full, Bare(full, module, parameter)


def bare(layer: Bare, x: Tensor, gy: Float[Tensor, "b ..."]) -> tuple[Float[Tensor, "b w"]]:
    """The rows of `Use.pulled_back`; x does not matter."""
    return (gy.flatten(1),)


@dataclass(frozen=True)
class Use:
    """Where a parameter met a batch.

    Attributes:
        leaf: the parameter, as what has a graph begins with it.
        part: what had been made of it.
        copies: of the part, a leaf too: as the function of torch's saw it.
    """

    leaf: Tensor
    part: Tensor
    copies: Float[Tensor, "b ..."]

    def pulled_back(self, gy: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """The gradient of each sample by the parameter, from that of the copies."""
        rows = []
        for row in gy.split(1):
            # summed over what the copy was spread over, in float32 or better
            summed = row.to(torch.promote_types(gy.dtype, torch.float32))
            summed = summed.sum_to_size(self.part.shape).to(self.part.dtype)
            rows += torch.autograd.grad(self.part, self.leaf, summed, retain_graph=True)
        return torch.stack(rows)


class Watch(TorchFunctionMode):
    """Follows a parameter while its module runs, and tells `record` of each use."""

    def __init__(self, layer: Bare, record: Callable[[Use], None]) -> None:
        """Begin with the parameter, of which a leaf that has a gradient takes the place."""
        super().__init__()
        self._layer, self._record = layer, record
        self._leaf = layer.weight.detach().requires_grad_()
        # by identity, and held, so that no other tensor is given it
        self._made: dict[int, Tensor] = {id(layer.weight): self._leaf}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch's: on copies, where the parameter meets a batch."""
        kwargs = kwargs or {}
        seen = [each for each in _flat(args, kwargs) if id(each) in self._made]
        if not seen or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        places = [i for i, each in enumerate(args) if id(each) in self._made]
        if len(seen) > 1 or not places:  # of two of them, or in a list
            raise self._refused(func)
        return self._run(func, places[0], list(args), kwargs)

    def _run(self, func: Any, place: int, args: list[Any], kwargs: Mapping[str, Any]) -> Any:
        name, part = func.__name__, self._made[id(args[place])]
        others = [a for i, a in enumerate(args) if isinstance(a, Tensor) and i != place]
        if name in _OF_FIRST and place > 0:  # another tensor, which takes its size or type
            return func(*args, **kwargs)
        if name in _COPIES:
            return self._recorded(func, part, func(part.detach(), *args[1:], **kwargs))
        if name in _POINTWISE and others and not kwargs:
            shape = torch.broadcast_shapes(part.shape, *(each.shape for each in others))
            args[place] = self._recorded(func, part, part.detach().expand(shape))
            return func(*args)
        if others and name not in _OF_FIRST:
            raise self._refused(func)
        args[place] = part
        made = func(*args, **kwargs)
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, Tensor) and each.requires_grad:
                self._made[id(each)] = each
        return made

    def _recorded(self, func: Any, part: Tensor, copies: Tensor) -> Tensor:
        """The copies as a leaf, if they are of the part for each row of a batch."""
        shape = (1,) * (copies.ndim - part.ndim) + tuple(part.shape)
        spread = all(a in (1, b) for a, b in zip(shape, copies.shape, strict=True))
        if not spread or shape[0] != 1:
            raise self._refused(func)
        self._record(Use(self._leaf, part, copies.requires_grad_()))
        return copies

    def _refused(self, func: Any) -> ParameterError:
        return ParameterError(
            f"the model uses its parameter {self._layer.name} by {func.__name__!r}, of which there "
            "are no gradients of each sample: leave it out with --parameters"
        )


def _flat(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Arguments, and what is in lists of them."""
    for each in (*args, *kwargs.values()):
        if isinstance(each, (tuple, list)):
            yield from each
        else:
            yield each
