"""Copies of networks for the self-check: whole, or of large ones a block of each kind.

A float64 copy of a large transformer would take more memory than the run itself. Its blocks are
alike, and stand in lists: a copy with the first of each list computes something else, with the same
code, so that what is wrong with a layer is wrong there too.
"""

from __future__ import annotations

import copy

from torch import nn

# Larger networks are cut short: numbers of a network.
LARGE = 200_000_000
# Lists of UNets, which are walked two at a time: one cut short would not fit the other.
_SIDE_BY_SIDE = ("attentions", "resnets", "down_blocks", "up_blocks")


def short_twin(network: nn.Module, large: int = LARGE) -> nn.Module:
    """A copy of the network; of one with more than `large` numbers, without repeated blocks.

    Modules that stay have the names that they had.

    >>> blocks = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(3)]))
    >>> [name for name, _ in short_twin(blocks, large=0).named_parameters()]
    ['0.0.weight', '0.0.bias']
    """
    if sum(parameter.numel() for parameter in network.parameters()) <= large:
        return copy.deepcopy(network)
    memo: dict[int, nn.Module] = {}
    for name, part in network.named_modules():
        if not isinstance(part, nn.ModuleList) or name.rpartition(".")[2] in _SIDE_BY_SIDE:
            continue
        # HunyuanDiT's later blocks read what earlier ones said, by their place among all
        if not any(hasattr(block, "skip_linear") for block in part):
            memo[id(part)] = _one_of_each(part)
    return copy.deepcopy(network, memo)


def _one_of_each(blocks: nn.ModuleList) -> nn.ModuleList:
    """A copy with the first block of each kind, under its old number."""
    kinds = {}
    for number, block in blocks.named_children():
        shapes = [(key, tensor.shape) for key, tensor in block.state_dict().items()]
        kinds.setdefault((type(block), str(shapes)), number)
    kept = nn.ModuleList()
    kept._modules = {number: copy.deepcopy(blocks._modules[number]) for number in kinds.values()}
    return kept
