"""Classifiers: the scenes' own against its network, CLIP's against CLIP's own logits."""

import numpy as np
import pytest
import torch
from support.tiny_clip import tiny_clip
from transformers import CLIPModel, CLIPTokenizer

from headwater.errors import QueryError
from headwater.evaluation.ground_truth.classifiers import ClipClassifier, classifier_for
from headwater.models.clip import Clip
from headwater.scenes.classifier import load_classifier
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES


def as_numbers(images) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images]) / 255


def test_the_judge_of_the_scenes():
    """Against the classifier's own reading."""
    shown = pictures("validation")[:12]
    drawn = as_numbers([picture.draw() for picture in shown])
    classifier = classifier_for("scenes:unseen", [])
    seen = classifier(drawn)
    read = load_classifier().read(2 * drawn - 1)
    start = 0
    for attribute, values in ATTRIBUTES.items():
        part = seen.rates[:, start : start + len(values)]
        start += len(values)
        torch.testing.assert_close(part.sum(1), torch.ones(12))
        assert [values[i] for i in part.argmax(1).tolist()] == read[attribute]
    correct = [
        seen.rates[i, classifier.concepts.index(p.scene.object)] for i, p in enumerate(shown)
    ]
    assert torch.stack(correct).mean() > 0.9
    assert seen.features.shape == (12, 2048)
    smaller = classifier(torch.nn.functional.interpolate(drawn, (32, 32), mode="area"))
    assert smaller.rates.shape == seen.rates.shape


def test_the_judge_by_clip(tmp_path):
    """Against CLIP's own logits."""
    folder = tiny_clip(tmp_path / "clip")
    words = ("star", "a fish", "moon")
    classifier = classifier_for("truth.json", words, Clip(folder))
    assert classifier == ClipClassifier(str(folder), words) and classifier.concepts == words
    assert classifier.facts()["concepts"] == list(words)
    shown = torch.rand(4, 3, 16, 16)
    model = CLIPModel.from_pretrained(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(list(words), padding=True, return_tensors="pt")
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    pixels = (shown - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        exact = model(tokens.input_ids, pixels, tokens.attention_mask).logits_per_image.softmax(1)
    seen = classifier(shown)
    torch.testing.assert_close(seen.rates, exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.features.norm(dim=1), torch.ones(4))
    with pytest.raises(QueryError, match="give the folder of a CLIP model as --clip"):
        classifier_for("truth.json", words)
    with pytest.raises(QueryError, match="there is only one: add others"):
        classifier_for("truth.json", words[:1], Clip(folder))
