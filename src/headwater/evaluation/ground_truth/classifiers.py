"""Classifiers: which concepts do pictures show, and where do they lie in a space of features?

What counts in a counterfactual is what somebody else sees in the pictures, not the model that made
them. A classifier is anything like `Classifier`; two are ready made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from headwater.errors import QueryError
from headwater.models.clip import Clip
from headwater.queries.prompts import contains
from headwater.runtime.plugins import function_named
from headwater.scenes.classifier import BUNDLED, AttributeClassifier, load_classifier
from headwater.scenes.vocabulary import ATTRIBUTES
from headwater.storage.files import sha256_of

BATCH = 100

# Pictures -> for each feature, by name, its probability in each picture.
FeatureReader = Callable[[Sequence[PIL.Image.Image]], Mapping[str, Iterable[float]]]
# A prompt -> what looks in pictures for what it says; None where it says nothing of that kind.
ReaderOf = Callable[[str], FeatureReader | None]


class Prediction(NamedTuple):
    """What a classifier makes of n pictures.

    Attributes:
        rates: how sure it is that each picture shows each concept, from 0 to 1.
        features: where the pictures lie, for distances between sets of them.
    """

    rates: Float[Tensor, "n q"]
    features: Float[Tensor, "n d"]


@runtime_checkable
class Classifier(Protocol):
    """Reads pictures; can be pickled, as other processes use it too."""

    @property
    def concepts(self) -> tuple[str, ...]:
        """What it tells apart, in the order of `Prediction.rates`."""
        ...

    @property
    def space(self) -> str:
        """What its features are, in words."""
        ...

    def facts(self) -> Mapping[str, Any]:
        """All that its answers depend on, as JSON takes it."""
        ...

    def __call__(self, pictures: Float[Tensor, "n 3 h w"]) -> Prediction:
        """Of pictures from 0 to 1."""
        ...


def is_of_scenes(truth: str) -> bool:
    """Whether a truth, as `read_truths` takes it, is of the scenes: they have their classifier."""
    return truth.partition(":")[0] == "scenes"


def classifier_for(
    truth: str, concepts: Sequence[str], clip: Clip | None = None, device: str = "cpu"
) -> Classifier:
    """The scenes' own classifier for a truth of the scenes, else CLIP.

    Args:
        truth: as `read_truths` takes it.
        concepts: of the truth; CLIP tells them apart.

    Raises:
        QueryError: the truth is a file, and there is no CLIP, or a single concept.
    """
    if is_of_scenes(truth):
        return ScenesClassifier(device)
    if clip is None:
        raise QueryError(
            f"nothing here can judge pictures for {truth!r}: give the folder of a CLIP model as "
            "--clip (`python -m headwater.evaluation.retraining.clip` trains a small one)"
        )
    if len(concepts) < 2:
        raise QueryError(
            f"CLIP judges which concept of {truth!r} a picture shows, and there is only one: add "
            "others"
        )
    return ClipClassifier(clip.source, tuple(concepts), device)


# --- the scenes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScenesClassifier:
    """The bundled classifier: for each attribute the softmax over its values.

    Pictures of another size than its own 64x64 are scaled.
    """

    device: str = "cpu"
    concepts: tuple[str, ...] = tuple(chain.from_iterable(ATTRIBUTES.values()))
    space: str = "what the scenes' judge reads its attributes from, 2,048 numbers"

    def facts(self) -> Mapping[str, Any]:
        """Its weights."""
        return {"judge": "scenes", "weights": sha256_of(BUNDLED)}

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "n 3 h w"]) -> Prediction:
        """Of pictures from 0 to 1."""
        network = _scenes_network(self.device)
        rates, features = [], []
        for part in pictures.split(BATCH):
            if part.shape[-2:] != (64, 64):
                part = F.interpolate(part, (64, 64), mode="bilinear", antialias=True)
            read = network.features(2 * part.to(self.device) - 1)
            logits = [network.heads[attribute](read) for attribute in ATTRIBUTES]
            rates.append(torch.cat([row.softmax(1) for row in logits], 1).cpu())
            features.append(read.cpu())
        return Prediction(torch.cat(rates), torch.cat(features))


@cache
def _scenes_network(device: str) -> AttributeClassifier:
    return load_classifier().to(device)


# --- CLIP -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipClassifier:
    """CLIP: the softmax, over the concepts, of its scaled cosine with a concept's words.

    That is what CLIP was trained to tell: which of these texts is the picture's? Concepts share the
    sum of 1, so a picture that shows two of them gives neither much: compare a rate with another of
    the same concept, never with 1.
    """

    source: str
    concepts: tuple[str, ...]
    device: str = "cpu"
    space: str = "CLIP's image embedding, at unit length"

    def facts(self) -> Mapping[str, Any]:
        """Its weights, and what it chooses among."""
        weights = _clip(self.source, self.device).fingerprint()
        return {"judge": "clip", "weights": weights, "concepts": list(self.concepts)}

    @torch.no_grad()
    def __call__(self, pictures: Float[Tensor, "n 3 h w"]) -> Prediction:
        """Of pictures from 0 to 1."""
        clip = _clip(self.source, self.device)
        words = F.normalize(clip.texts(self.concepts), dim=1)
        parts = [F.normalize(clip.pixels(part), dim=1) for part in pictures.split(BATCH)]
        embedded = torch.cat(parts)
        scaled = clip.logit_scale * embedded @ words.T
        return Prediction(scaled.softmax(1).cpu(), embedded.cpu())


@cache
def _clip(source: str, device: str) -> Clip:
    return Clip(source, device)


# --- what a prompt says ---------------------------------------------------------------------------


def reader_named(name: str) -> ReaderOf:
    """`scenes`, or a function that "module:function" names: pictures -> {feature: probabilities}.

    Raises:
        QueryError: no such module or function.
    """
    if name == "scenes":
        return scenes_reader
    function: Any = function_named("--judge", name)[0]
    return lambda prompt: function


def scenes_reader(prompt: str) -> FeatureReader | None:
    """How likely the scenes' classifier finds what the prompt says: its object, colour, style."""
    classifier = ScenesClassifier()
    columns = {
        attribute: classifier.concepts.index(value)
        for attribute, values in ATTRIBUTES.items()
        for value in values
        if contains(prompt, value)
    }

    def read(pictures: Sequence[PIL.Image.Image]) -> dict[str, list[float]]:
        pixels = np.stack([np.asarray(picture, np.float32) for picture in pictures]) / 255
        rates = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2)).rates
        return {attribute: rates[:, column].tolist() for attribute, column in columns.items()}

    return read if columns else None
