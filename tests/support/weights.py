"""A network's weights, before and after what must leave them as they were."""

import torch


def state(denoiser):
    return {name: tensor.clone() for name, tensor in denoiser.network.state_dict().items()}


def unchanged(denoiser, before):
    after = denoiser.network.state_dict()
    return all(torch.equal(after[name], tensor) for name, tensor in before.items())
