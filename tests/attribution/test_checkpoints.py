"""A mean over checkpoints: each has features and a kernel of its own."""

import json
import shutil
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.tiny import tiny_pipeline

from headwater import (
    Concept,
    Contribution,
    Denoiser,
    Index,
    Session,
    build_index,
    load_dataset,
)
from headwater.errors import MethodError, ModelError
from headwater.methods.choice import choose
from headwater.queries.image import Image

OPTIONS = dict(parameters="attn2-kv", timesteps=2, dim=48)
PROMPT = "a red star"


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model, tiny_images):
    """One index of two checkpoints for each method, and one of either alone, made when asked."""
    folder = tmp_path_factory.mktemp("ensembles")
    sources = [tiny_model, shared_autoencoder(folder / "other", tiny_model)]
    models = [Denoiser.load(source) for source in sources]
    data = load_dataset(tiny_images).first(8)
    file = tiny_images / "train-00011.png"

    @cache
    def build(name, model, method, checkpoints=()):
        out = folder / f"{name}-{method}"
        options = dict(method=method, checkpoints=checkpoints, **OPTIONS)
        return build_index(model, data, out, **options)

    return SimpleNamespace(
        both=lambda method: build("both", models[0], method, (sources[1],)),
        alone=lambda which, method: build(str(which), models[which], method),
        folder=folder, models=models, sources=sources, data=data, file=file,
    )  # fmt: skip


def shared_autoencoder(folder, first):
    """Another tiny pipeline, a later checkpoint say: its pictures have the same latents."""
    tiny_pipeline(folder, seed=1)
    shutil.rmtree(folder / "vae")
    shutil.copytree(first / "vae", folder / "vae")
    return folder


def assert_mean(ours, parts):
    exact = (parts[0] + parts[1]) / 2
    assert np.abs(parts[0] - parts[1]).max() > 0.1 * np.abs(exact).max()
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


ALONE = {"tracin": "gradient-dot", "gas": "gradient-cosine"}


@pytest.mark.parametrize(
    "method", ["trak", "tracin", "gas", "relative-influence", "das", "das-code"]
)
def test_scores_are_the_mean_over_checkpoints(world, method):
    """TracInCP is a mean of dots, GAS of cosines; TRAK's ensemble has a kernel for each."""
    build = method if method.startswith("das") else "trak"
    query = Image(PROMPT, world.file, draws=2)
    alone = ALONE.get(method, method)
    parts = [world.alone(i, build).attribute(query, method=alone).scores for i in (0, 1)]
    ours = world.both(build).attribute(query, method=method)
    assert_mean(ours.scores, parts)
    assert ours.certainty.draws == 2


def test_a_concept_is_asked_of_every_checkpoint(world):
    query = Concept(PROMPT, "star", context="prompt", draws=2)
    parts = [world.alone(i, "concept-trak").attribute(query).scores for i in (0, 1)]
    assert_mean(world.both("concept-trak").attribute(query).scores, parts)


def test_members_are_indexes_of_their_own(world):
    index = world.both("trak")
    session = Session(index)
    first, second = (member.index for member in session.members)
    assert session.members[0] is session
    assert first is index and second.manifest.checkpoints == 0
    assert second.manifest.model["source"] == str(world.sources[1])
    assert second.manifest.model["fingerprint"] == world.models[1].fingerprint()
    assert index.manifest.checkpoints == 1
    rows = [torch.cat(list(member.blocks())) for member in (first, second)]
    assert rows[0].shape == rows[1].shape and not torch.allclose(*rows)
    one, other = (member.kernel().gram().matrix for member in session.members)
    assert not torch.allclose(one, other)
    alone = world.alone(1, "trak")
    torch.testing.assert_close(torch.cat(list(alone.blocks())), rows[1])


def test_an_ensemble_is_opened_from_disk(world):
    query = Image(PROMPT, world.file, draws=2)
    first = world.both("trak").attribute(query, fresh=True)
    said = []
    again = Index.open(world.folder / "both-trak").attribute(query, note=said.append)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert said == ["the picture: using the query gradient computed before (--fresh recomputes)"]
    (checkpoint,) = again.provenance["checkpoints"]
    assert checkpoint["source"] == str(world.sources[1])
    assert checkpoint["fingerprint"] == world.models[1].fingerprint()
    assert (
        again.provenance["reused_query_gradient"] and not first.provenance["reused_query_gradient"]
    )


def test_all_dampings_are_means(world):
    query = Image(PROMPT, world.file, draws=2)
    ratios = [0.01, 1.0]
    ours = world.both("trak").attribute(query, damping=ratios).sweep
    for ratio in ratios:
        parts = [world.alone(i, "trak").attribute(query, damping=ratio).scores for i in (0, 1)]
        assert_mean(ours[ratio], parts)


@pytest.mark.parametrize("method", ["tracin", "gas"])
def test_one_checkpoint_is_not_enough(world, tmp_path, method):
    with pytest.raises(MethodError, match="is a mean over checkpoints: give at least 1 more with"):
        build_index(world.models[0], world.data, tmp_path / "index", method=method, **OPTIONS)
    assert not (tmp_path / "index").exists()
    query = replace(Image(PROMPT, world.file), draws=1)
    index = world.alone(0, "trak")
    assert method not in index.methods() and method in world.both("trak").methods()
    with pytest.raises(MethodError, match=f"build one with `--method {method}` with --checkpoint"):
        index.attribute(query, method=method)


def test_a_method_of_one_model_is_refused_checkpoints(world, tmp_path):
    """As is what is built where none is named; by the one that it names there is a mean."""
    with pytest.raises(MethodError, match=r"presence is of one model, .* give --method ekfac$"):
        build_index(
            world.models[0], world.data, tmp_path / "index",
            checkpoints=[world.sources[1]], **OPTIONS,
        )  # fmt: skip
    assert not (tmp_path / "index").exists()
    query = Image(PROMPT, world.file, draws=2)
    parts = [world.alone(i, "ekfac").attribute(query).scores for i in (0, 1)]
    index = world.both("ekfac")
    assert_mean(index.attribute(query).scores, parts)
    asked = Contribution(PROMPT, "star", draws=1)
    with pytest.raises(MethodError, match="ekfac-presence is of one model, and this index is of s"):
        index.attribute(asked, method="ekfac-presence")
    assert "ekfac-presence" in world.alone(0, "ekfac").methods()
    # one that was built for it before
    assert choose(None, "ekfac-presence", index.methods(), asked.kind).name == "ekfac"


def test_a_build_goes_on_with_the_checkpoints_that_are_missing(world):
    """The first index is there and whole, the second was never begun."""
    index = world.both("d-trak")
    kept = (index.path / "index.json").stat().st_mtime_ns
    shutil.rmtree(index.path / "checkpoints")
    options = dict(method="d-trak", checkpoints=[world.sources[1]], **OPTIONS)
    again = build_index(world.models[0], world.data, index.path, **options)
    assert (again.path / "index.json").stat().st_mtime_ns == kept
    manifest = json.loads((again.path / "checkpoints/0/index.json").read_text())
    assert manifest["complete"]
    assert len(again.checkpoints) == 1 and len(Session(again).members) == 2


def test_captions_ask_each_checkpoint_by_its_own_rows(world):
    """A mean of two answers, each with features and a kernel of its own."""
    query = Concept("a red fish", "fish")
    asked = dict(method="caption-d-trak")
    parts = [world.alone(i, "d-trak").attribute(query, **asked).scores for i in (0, 1)]
    assert_mean(world.both("d-trak").attribute(query, **asked).scores, parts)


def test_checkpoints_with_other_encoders_are_refused(tmp_path, tiny_model, tiny_images):
    """Their latents are not each other's."""
    other = Denoiser.load(tiny_model)
    with torch.no_grad():
        other.pipe.vae.encoder.conv_in.weight += 1
    other.pipe.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="has another autoencoder or text encoder"):
        build_index(
            Denoiser.load(tiny_model),
            load_dataset(tiny_images),
            tmp_path / "index",
            checkpoints=[tmp_path / "other"],
            method="trak",
            timesteps=2,
            dim=64,
        )
