"""The smallest study of retrained models."""

from functools import partial

import pytest
import torch

from headwater import Denoiser, load_dataset
from headwater.evaluation.retraining.config import ModelConfig, Phase
from headwater.evaluation.retraining.models import EncodedData, encode_data
from headwater.evaluation.retraining.retrain import Measure, Study
from support.tiny import PIXELS


def encode_tiny(tiny_model, tiny_images):
    """The small pictures as the small model is trained on them."""
    return encode_data(Denoiser.load(tiny_model), load_dataset(str(tiny_images)))


def unconditional(steps=3, **more):
    return ModelConfig((Phase(steps, batch=4),), base="", network=PIXELS, **more)


def captioned(tiny_model, steps=3, **more):
    return ModelConfig((Phase(steps, batch=4),), base=str(tiny_model), **more)


@pytest.fixture(scope="module")
def data():
    return EncodedData(torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(0)), None)


# --- many models ----------------------------------------------------------------------------------


def mean_weight(denoiser, factor=1.0):
    return {"mean": [factor * sum(p.double().mean().item() for p in denoiser.network.parameters())]}


def study(folder, data, steps=2, factor=1.0, source="ten pictures"):
    measure = Measure(partial(mean_weight, factor=factor), {"factor": factor})
    return Study(folder, unconditional(steps), data, source, measure)
