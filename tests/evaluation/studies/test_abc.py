"""The AbC benchmark: its task file read, exemplars found again in a pool."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.brute_force import inverse
from support.pictures import write_pictures

from headwater import Concept, Denoiser, Index, Session, load_dataset
from headwater.errors import MethodError, QueryError
from headwater.evaluation.studies.abc import (
    DAMPINGS,
    KERNELS,
    Query,
    exemplar_question,
    hidden_recall,
    kernel_scores,
    read_queries,
    recall_rows,
)
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.index.build import build_index
from headwater.methods.choice import method_named
from headwater.models.textual_inversion import Token, save_token
from headwater.queries.image import Image


def entry(case="test_artchive", number=0, concept="ardon", **changes):
    return {
        "synth_image_path": f"synth/artchive/gpt/{concept}/samples/00000.png",
        "prompt": "The beauty of stillness in the style of <new1> art",
        "test_case": case,
        "test_case_ind": number,
        "model_path": f"models/artchive/{concept}",
        "train_prompt": "A picture in the style of <new1> art",
        "category": "art",
    } | changes


@pytest.fixture
def folder(tmp_path):
    """The benchmark's layout, with two concepts of one case."""
    turtle = {"prompt": "A <new1> turtle on a rock", "train_prompt": "<new1> turtle"}
    entries = [
        entry(number=1),
        entry("test_unobserved", 0, "turtle", category="turtle", **turtle),
        entry(concept="african"),
    ]
    (tmp_path / "all_tasks.json").write_text(json.dumps(entries))
    (tmp_path / "json").mkdir()
    exemplars = [["african/kono.jpg", "african/jenne.jpg"], ["ardon/rosette.jpg"]]
    concepts = [
        {"exemplar": [f"dataset/exemplar/artchive/images/{name}" for name in names], "synth": {}}
        for names in exemplars
    ]
    (tmp_path / "json" / "test_artchive.json").write_text(json.dumps(concepts))
    return tmp_path


def test_queries_are_read_with_their_exemplars(folder):
    ardon, turtle, african = read_queries(folder / "all_tasks.json")
    assert ardon == Query(
        "synth/artchive/gpt/ardon/samples/00000.png",
        "The beauty of stillness in the style of <new1> art",
        "<new1>",
        "A picture in the style of <new1> art",
        "art",
        "test_artchive",
        "ardon",
        ("exemplar/artchive/images/ardon/rosette.jpg",),
    )
    assert [path.rpartition("/")[2] for path in african.exemplars] == ["kono.jpg", "jenne.jpg"]
    assert turtle.exemplars == () and turtle.category == "turtle"
    assert turtle.minus == "A turtle on a rock"
    assert ardon.minus == "The beauty of stillness in the style of art"


def test_the_folder_as_it_is_downloaded(folder):
    """With its pool, and without the list of queries, which comes with the code."""
    assert read_queries(folder) == read_queries(folder / "all_tasks.json")
    write_pictures(folder / "laion_subset", "images/00000.png", "images/00001.png")
    (folder / "laion_subset/captions.txt").write_text("a boat\na red house\n")
    pool = load_dataset(folder / "laion_subset")
    assert [sample.caption for sample in pool.samples] == ["a boat", "a red house"]
    (folder / "all_tasks.json").unlink()
    with pytest.raises(
        QueryError, match=r"there is no .*all_tasks.json: copy it there from the co"
    ):
        read_queries(folder)


def test_the_task_file_may_lie_elsewhere(folder, tmp_path):
    alone = tmp_path / "elsewhere" / "tasks.json"
    alone.parent.mkdir()
    alone.write_text((folder / "all_tasks.json").read_text())
    assert read_queries(alone, folder) == read_queries(folder / "all_tasks.json")
    assert all(query.exemplars == () for query in read_queries(alone))


@pytest.mark.parametrize(
    "written, said",
    [
        ("{", "cannot read .* give a task file of the AbC benchmark"),
        ("{}", "is no list of entries: give a task file of the AbC benchmark"),
        ([{"prompt": "a"}], "entry 1 needs synth_image_path, prompt, .*test_case_ind as a number"),
        ([entry(number="0")], "entry 1 needs"),
        ([entry(number=-1)], "entry 1 needs"),
        ([entry(), entry(prompt="art")], "entry 2: prompt and train_prompt must hold one token"),
        ([entry(train_prompt="art")], "must hold one token, such as <new1>"),
        ([entry(number=2)], "json/test_artchive.json has no exemplars of a concept 2"),
    ],
)
def test_files_that_are_no_tasks(folder, written, said):
    path = folder / "all_tasks.json"
    path.write_text(written if isinstance(written, str) else json.dumps(written))
    with pytest.raises(QueryError, match=said):
        read_queries(path)


def test_a_token_is_asked_for_in_its_prompt_and_a_picture_as_it_is(tmp_path):
    query = Query("synth/00000.png", "a <new1> shape", "<new1>", "a <new1> shape", "shape", "", "")
    asking = QuestionOptions(draws=4, seed=3, guidance=2.0)
    token = Concept("a <new1> shape", "<new1>", minus="a shape", context="prompt", draws=4, seed=3)
    for name in ("concept-trak", "concept-trak-a", "concept-d-trak"):
        assert exemplar_question(method_named(name), query, asking, tmp_path) == token
    assert token.pair == ("a <new1> shape", "a shape")
    for name in ("trak", "d-trak", "clip-cosine", "pixel-cosine", "random"):
        found = exemplar_question(method_named(name), query, asking, tmp_path)
        file = tmp_path / "synth/00000.png"
        assert found == Image("a <new1> shape", file, draws=4, seed=3, guidance=2.0)
        assert exemplar_question(method_named(name), query, asking) == replace(found, file=None)
        unmade = replace(query, picture="")
        assert exemplar_question(method_named(name), unmade, asking, tmp_path).file is None
    with pytest.raises(MethodError, match=r"caption-d-trak asks by captions, .*: leave it out"):
        exemplar_question(method_named("caption-d-trak"), query, asking)


def test_exemplars_are_found_among_the_first_ten():
    """Against sorting; in a tie the pool comes first."""
    rng = np.random.default_rng(0)
    for hidden in (1, 4, 13):
        pool, exemplars = rng.normal(size=200), rng.normal(1.5, size=hidden)
        both = sorted([(-s, 0) for s in pool] + [(-s, 1) for s in exemplars])
        hits = sum(own for _, own in both[:10])
        assert hidden_recall(pool, exemplars) == hits / min(10, hidden)
    assert hidden_recall(np.zeros(3), np.array([0.0, 1.0]), k=3) == 1 / 2
    assert hidden_recall(np.zeros(20), np.ones(13)) == 1


def test_three_kernels_against_their_formulas(tiny_model, tiny_images, tmp_path):
    """Explicit inverses; a pool's row is corrected to its score by the kernel without it."""
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(8)
    recipe = dict(parameters="attn2-kv", timesteps=1, dim=32, self_check=False)
    session = Session(build_index(denoiser, data, tmp_path / "index", method="trak", **recipe))
    hidden, inside = [data.samples[row].id for row in (1, 4)], np.ones(8, bool)
    inside[[1, 4]] = False
    phi = torch.cat(list(session.index.blocks())).double()
    psi = torch.randn(2, 32)
    found = kernel_scores(session, psi.numpy(), hidden, (0.1, 10.0))
    assert list(found) == list(KERNELS)
    for ratio in (0.1, 10.0):
        close = dict(rtol=2e-3, atol=1e-3 * found["of all"][ratio].std())
        whole = psi.double() @ inverse(phi, ratio) @ phi.T
        np.testing.assert_allclose(found["of all"][ratio], whole.numpy(), **close)
        pool, count = phi[inside], int(inside.sum())
        of_pool = inverse(pool, ratio)
        outside = psi.double() @ of_pool @ phi.T
        np.testing.assert_allclose(found["of the pool"][ratio], outside.numpy(), **close)
        kernel = torch.linalg.inv(of_pool)
        for row in range(8):
            left = kernel - torch.outer(phi[row], phi[row]) / count * bool(inside[row])
            exact = psi.double() @ torch.linalg.inv(left) @ phi[row]
            np.testing.assert_allclose(found["corrected"][ratio][:, row], exact.numpy(), **close)


def test_nine_dampings_are_theirs():
    """In tenths of the mean eigenvalue, from 1e-4 to 1e4."""
    np.testing.assert_allclose(np.array(DAMPINGS) / 0.1, np.logspace(-4, 4, 9))


def test_concepts_count_alike():
    queries = [
        Query("", "", "", "", "", case, concept)
        for case, concept in (("a", "x"), ("a", "x"), ("a", "x"), ("a", "y"), ("b", "z"))
    ]
    rows = recall_rows(queries, [1.0, 1.0, 1.0, 0.0, 0.5])
    assert [(r["case"], r["concepts"], r["queries"]) for r in rows] == [
        ("a", 2, 4), ("b", 1, 1), ("all", 3, 5),
    ]  # fmt: skip
    assert [r["recall"].mean for r in rows] == pytest.approx([0.5, 0.5, 0.5])
    half = 12.706 * 0.5  # Student's t of two concepts, 1 and 0
    assert rows[0]["recall"][1:3] == pytest.approx((0.5 - half, 0.5 + half), rel=1e-3)


def test_words_that_diffusers_loaded_are_asked_for(tiny_model, tiny_images, tmp_path):
    """Saved, loaded, kept with the pipeline: the index is of the model that knows them."""
    base, pipe = Denoiser.load(tiny_model), Denoiser.load(tiny_model).pipe
    for name in ("one", "two"):
        save_token(tmp_path / f"{name}.safetensors", Token(f"<{name}>", torch.randn(16)))
        pipe.load_textual_inversion(tmp_path / f"{name}.safetensors")
    pipe.save_pretrained(tmp_path / "taught")
    taught, data = Denoiser.load(tmp_path / "taught"), load_dataset(tiny_images)
    assert taught.fingerprint() != base.fingerprint()
    options = {"method": "concept-trak-unguided", "timesteps": 2, "self_check": False}
    build_index(taught, data, tmp_path / "index", **options)
    index = Index.open(tmp_path / "index")

    def scores(name):
        query = Query("", f"a {name} shape", name, "a {} shape", "shape", "", "")
        return index.attribute(
            exemplar_question(method_named("concept-trak"), query, QuestionOptions(2))
        ).scores

    one, two = scores("<one>"), scores("<two>")
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.99
    np.testing.assert_array_equal(scores("<one>"), one)
