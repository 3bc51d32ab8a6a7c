"""A family of one's own: a small convolutional network of pictures, which reads no prompts."""

from types import SimpleNamespace

import torch
from torch import nn

from headwater.models.schedule import preserving


def toy_pipeline():
    """An object that holds what the family below needs, and nothing of diffusers."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 3, 1)
    )
    return SimpleNamespace(toy=network, betas=torch.linspace(1e-4, 0.02, 50))


class Toy:
    """See `headwater.models.families.family.Family`."""

    parameter_sets = {"first": r"^0$", "last": r"^3$"}  # noqa: RUF012 - as in a family
    default_parameters = ("last", "all")
    forgotten_parameters = ("all",)
    mixed = ()
    readings = ()
    latent_shape = (3, 8, 8)
    image_size = (8, 8)
    words = None

    def __init__(self, pipe, reading=None):
        self.pipe, self.network, self.encoders = pipe, pipe.toy, {}

    @classmethod
    def takes(cls, pipe):
        return hasattr(pipe, "toy")

    def schedule(self):
        return preserving((1 - self.pipe.betas).cumprod(0), "epsilon")

    def forward(self, network, xt, t, condition):
        return network(xt) / (1 + t)

    def placed(self, condition, fits):
        return condition

    def to_latents(self, pixels):
        return pixels

    def to_pixels(self, x0):
        return x0

    def encoding_facts(self):
        return {}

    def network_facts(self):
        return {}

    def kept_projections(self, network):
        return ()

    def faster(self, network, layers):
        return ()
