"""DiT against the pipeline's own call: classes for prompts, and none for the empty one."""

import pytest
import torch
from support.pipeline_calls import first_call
from support.tiny_cross import as_of_old, dit, pixart

from headwater import Denoiser
from headwater.errors import QueryError
from headwater.models.families.cross.dit import DiT
from headwater.models.families.cross.pixart import PixArt


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return Denoiser.load(dit(tmp_path_factory.mktemp("dit") / "model"))


def classes(denoiser, *texts):
    return denoiser.encode_captions(texts).tensors["class_labels"].tolist()


def test_its_output_is_that_of_the_pipelines_own_call(denoiser):
    """Both halves: of the class, and of no class."""
    assert isinstance(denoiser.family, DiT) and denoiser.image_size == (16, 16)
    given, out = first_call(
        denoiser.pipe, denoiser.network, None, class_labels=[2], guidance_scale=4.0
    )
    assert given["class_labels"].tolist() == [2, 1000]
    with torch.no_grad():
        condition = denoiser.encode_captions(["a fish", ""])
        ours = denoiser.predict(given[0], given["timestep"].tolist()[0], condition)
    torch.testing.assert_close(ours, out[:, :4], rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-3


def test_a_row_is_the_same_alone_and_in_a_batch(denoiser):
    condition, xt = denoiser.encode_captions(["a fish", "", "7"]), torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        rows = denoiser.predict(xt, 499, condition)
        alone = [denoiser.predict(xt[[i]], 499, condition[[i]]) for i in range(3)]
    torch.testing.assert_close(rows, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_a_caption_is_a_label_or_a_number(denoiser):
    """A class may have several labels."""
    assert classes(denoiser, "a red star", " a fish ", "b", "the second letter") == [0, 2, 4, 4]
    assert classes(denoiser, "0", "999", "") == [0, 999, 1000]
    assert denoiser.cut_prompts(["a red star"]) == {}


@pytest.mark.parametrize("text", ["a blue fish", "1000", "-1", "1.5"])
def test_what_is_no_class_is_refused(denoiser, text):
    known = r"give one of 'a', 'a fish', .*, \.\.\., or a number from 0 to 999"
    with pytest.raises(
        QueryError, match=rf"^'{text}' is no class of DiTTransformer2DModel: {known}"
    ):
        classes(denoiser, "a fish", text)


def test_without_labels_a_caption_is_a_number(denoiser):
    pipe = Denoiser.load(denoiser.source).pipe
    pipe.labels = {}
    plain = Denoiser(pipe)
    assert classes(plain, "3") == [3]
    with pytest.raises(
        QueryError, match=r"^'a fish' is no class of .*: give a number from 0 to 999"
    ):
        classes(plain, "a fish")
    assert plain.encoders_fingerprint() != denoiser.encoders_fingerprint()


def test_words_are_what_reads_the_class(denoiser):
    assert denoiser.default_parameters() == "words"
    embedder = "transformer_blocks.0.norm1.emb.class_embedder.embedding_table"
    assert set(denoiser.layers()) == {"transformer_blocks.0.norm1.linear", embedder}
    attention = set(denoiser.layers("attention"))
    assert attention and all(".attn1." in name for name in attention)


@pytest.mark.parametrize("build, family", [(dit, DiT), (pixart, PixArt)])
def test_models_of_old_are_known(tmp_path, build, family):
    """On the hub they have the one name that all transformers once had."""
    new = Denoiser.load(build(tmp_path))
    old = Denoiser.load(as_of_old(tmp_path))
    assert isinstance(old.family, family)
    xt, condition = torch.randn(1, 4, 8, 8), old.encode_captions(["a red star"])
    with torch.no_grad():
        assert torch.equal(old.predict(xt, 9, condition), new.predict(xt, 9, condition))
