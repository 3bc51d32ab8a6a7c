"""An index and the images that it was built from, which may change under it."""

import shutil

import numpy as np
import pytest
import torch
from support.index_files import RECIPE, rewrite_manifest

from headwater import Concept, Image, Preference, Session
from headwater.attribution.scorers.gradient import setting_of
from headwater.data.memory import from_images
from headwater.data.sources import load_dataset
from headwater.errors import DatasetError, MethodError, MismatchError
from headwater.index.build import build_index
from headwater.index.index import Index
from headwater.methods.table import METHODS
from headwater.models.denoiser import Denoiser
from headwater.queries.preference import Pairs


def test_a_picture_is_found_by_its_id_when_others_are_gone(tmp_path, tiny_model, tiny_images):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images)
    data = load_dataset(images).first(6)
    before = [data.image(row).tobytes() for row in range(6)]
    build_index(Denoiser.load(tiny_model), data, tmp_path / "index", **RECIPE)
    (images / data.samples[2].id).unlink()  # whose row in metadata.jsonl stays
    with pytest.raises(DatasetError, match=r"there is no image 'train-00002\.png'"):
        load_dataset(images)
    index = Index.open(tmp_path / "index")
    after = [index.image(row) for row in range(6)]
    assert after[2] is None
    assert [after[row].tobytes() for row in (0, 1, 3, 4, 5)] == before[:2] + before[3:]


def test_all_captions_of_an_image_are_kept_and_shown(tmp_path, tiny_model, tiny_images):
    folder = load_dataset(tiny_images).first(4)
    captions = [[sample.caption] for sample in folder.samples]
    captions[1].append("a thing")
    data = from_images([folder.image(row) for row in range(4)], captions)
    notes, denoiser = [], Denoiser.load(tiny_model)
    index = build_index(denoiser, data, tmp_path / "index", note=notes.append, **RECIPE)
    assert any("1 image(s) have several captions, such as 'row-00000001': one" in n for n in notes)
    index = Index.open(tmp_path / "index", denoiser)
    assert list(index.samples) == list(data.samples)
    session = Session(index)
    assert sorted(session.captions) == sorted(["a thing", *(s.caption for s in folder.samples)])
    shown = session.attribute(Image("a thing", tiny_images / folder.samples[1].id)).top(4)
    assert {each.caption for each in shown} == {
        captions[0][0], f"{captions[1][0]} | a thing", captions[2][0], captions[3][0],
    }  # fmt: skip
    other = from_images([folder.image(row) for row in range(4)], [own[0] for own in captions])
    plain = build_index(denoiser, other, tmp_path / "plain", **RECIPE)
    ours, theirs = (torch.cat(list(each.blocks())) for each in (index, plain))
    assert torch.equal(ours[[0, 2, 3]], theirs[[0, 2, 3]])
    assert not torch.allclose(ours[1], theirs[1])


# --- guidance of an inversion ---------------------------------------------------------------------

FEW = dict(parameters="attn2-kv", timesteps=1, dim=32, self_check=False)
STAR = Concept("a red star", "star", context="bare", draws=2)


def test_an_index_serves_methods_of_its_guidance(tmp_path, tiny_model, tiny_images):
    """And one of an older version, whose `concept-trak` was unguided, is still read."""
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(4)
    made = build_index(denoiser, data, tmp_path / "old", method="concept-trak-unguided", **FEW)
    scores = made.attribute(STAR).scores
    recipe = {**made.manifest.recipe, "method": "concept-trak"}
    rewrite_manifest(made.path, recipe=recipe)

    old = Index.open(tmp_path / "old")
    assert "concept-trak-unguided" in old.methods()
    assert "concept-trak" not in old.methods()
    answer = old.attribute(STAR)
    assert answer.method == "concept-trak-unguided"
    np.testing.assert_array_equal(answer.scores, scores)
    with pytest.raises(MethodError, match=r"built for concept-trak-unguided and serves .*--method"):
        old.attribute(STAR, method="concept-trak")
    with pytest.raises(MismatchError, match=r"inversion_guidance = 1\.0, this run has 7\.5"):
        build_index(denoiser, data, tmp_path / "old", method="concept-trak", **FEW)
    build_index(denoiser, data, tmp_path / "old", method="concept-trak-unguided", **FEW)


@pytest.mark.parametrize("guidance", [None, 3])
def test_questions_that_invert_are_guided_as_the_rows_are(
    tmp_path, tiny_model, tiny_images, guidance
):
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(4)
    options = FEW | {"method": "concept-trak", "inversion_guidance": guidance}
    index = build_index(denoiser, data, tmp_path / "index", **options)
    assert {"concept-trak", "concept-trak-d"} <= set(index.methods())
    assert "concept-trak-unguided" not in index.methods()
    session, method = Session(index), METHODS["concept-trak"]
    own = Image("a red star", tiny_images / data.samples[0].id)
    better, worse = data.take([0, 1]), data.take([2, 3])
    pairs = Preference(Pairs("pairs", better, worse, ((0, 0), (1, 1))))
    for query in (own, pairs):
        side = setting_of(session, method, query).side
        assert (side.path, side.guidance) == ("inversion", guidance or 7.5)
    assert session.extractor().spec.inversion_guidance == (guidance or 7.5)
    # a training image asked about itself: the feature of the question is its row
    same = Image(data.samples[0].caption, tiny_images / data.samples[0].id)
    row = torch.cat(list(index.blocks()))[0]
    psi = torch.from_numpy(session.attribute(same).feature)
    torch.testing.assert_close(psi, row, rtol=2e-3, atol=2e-3 * row.abs().max().item())
