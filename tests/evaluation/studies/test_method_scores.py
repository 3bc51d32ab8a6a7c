"""What every method scores every image for every concept: asked once, kept, found again."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from support.indexes import METHODS_HERE, truths_of
from support.indexes import places as places  # a fixture
from support.tiny import tiny_folder

from headwater import Denoiser, Index, Session, load_dataset
from headwater.errors import HeadwaterWarning, MethodError, ParameterError, QueryError
from headwater.evaluation.ground_truth.concepts import Truth
from headwater.evaluation.studies.method_indexes import build_indexes, query_kind, require_askable
from headwater.evaluation.studies.method_scores import (
    QuestionOptions,
    _query_facts,
    concept_question,
    open_indexes,
    require_named,
    score_concepts,
    score_questions,
    select_methods,
    sweep_dampings,
)
from headwater.index.build import build_index
from headwater.methods.table import METHODS
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.queries.outputs.output import OUTPUTS, PICTURES, Contribution

# --- methods ------------------------------------------------------------------------------------


def test_every_method_is_answered_by_the_first_index_that_serves_it(places):
    indexes = open_indexes([places["pixel"], places["concept"], places["pixel"]])
    found = select_methods(indexes)
    assert {method.name: index for method, index in found.items()} == {
        "concept-trak": indexes[1],
        "pixel-dot": indexes[0],
        "pixel-cosine": indexes[0],
        "random": indexes[0],
    }
    usual = SimpleNamespace(
        methods=lambda: ["ekfac", "ekfac-presence", "presence"],
        recipe=SimpleNamespace(method="ekfac-presence"),
    )
    named = [method.name for method in select_methods([usual])]
    assert named == ["ekfac", "ekfac-presence"], "what it was built for, though it is slow"
    every = {method.name for method in select_methods(indexes, ["all"])}
    by_name = {"unlearning", "mucs", "nda", "presence", "concept-trak-d"}
    assert every == {method.name for method in found} | by_name
    assert [m.name for m in select_methods(indexes, ["random", "unlearning"])] == [
        "random",
        "unlearning",
    ]


def test_methods_that_are_not_served(places):
    indexes = open_indexes([places["pixel"]])
    with pytest.raises(MethodError, match="no index here serves trak: build one with `--method tr"):
        select_methods(indexes, ["random", "trak"])
    with pytest.raises(MethodError, match="there is no method 'tark'"):
        select_methods(indexes, ["tark"])


def test_what_a_method_is_asked():
    nothing = np.zeros(3, bool)
    truth = Truth("star", "a red star", nothing, nothing, nothing, {})
    options = QuestionOptions(draws=7, seed=3, guidance=2.0, context="prompt")
    assert concept_question(METHODS["concept-trak"], truth, options) == Concept(
        "a red star", "star", context="prompt", draws=7, seed=3
    )
    assert concept_question(METHODS["d-trak"], truth, options) == Image(
        "a red star", draws=7, seed=3, guidance=2.0
    )
    assert concept_question(METHODS["clip-cosine"], truth, options).kind == "concept"
    assert (
        concept_question(METHODS["caption-d-trak"], truth, options).context == "auto"
    )  # takes no other
    takers = {name: m for name, m in METHODS.items() if {"concept", "image"} & set(m.takes)}
    kinds = {name: concept_question(m, truth, options).kind for name, m in takers.items()}
    assert all(kind in METHODS[name].takes for name, kind in kinds.items())


FOR = {
    "concept-trak": "concept",
    "clip-cosine": "concept",
    "presence": "concept",
    "trak": "image",
    "d-trak": "image",
    "ekfac": "contribution",
    "kfac-exact": "contribution",
    "ekfac-presence": "contribution",
    "metagradient": "contribution",
    "guda": "",
}


@pytest.mark.parametrize(("name", "kind"), FOR.items(), ids=FOR)
def test_a_method_is_asked_what_it_is_for_where_nobody_says_it(name, kind):
    nothing = np.zeros(3, bool)
    truth = Truth("star", "a red star", nothing, nothing, nothing, {})
    assert query_kind(METHODS[name]) == kind
    if not kind:
        with pytest.raises(MethodError, match=f"{name} takes neither concepts nor images: leave"):
            require_askable([name], None)
        return
    asked = concept_question(METHODS[name], truth, QuestionOptions(draws=7, seed=3, guidance=2.0))
    assert (asked.kind, asked.draws, asked.seed) == (kind, 7, 3)
    if not isinstance(asked, Concept):  # of a picture that the model makes
        assert asked.guidance == 2.0


@pytest.mark.parametrize("ask", ["contribution", "loss"])
def test_methods_that_take_an_output_are_asked_it(ask):
    nothing = np.zeros(3, bool)
    truth = Truth("star", "a red star", nothing, nothing, nothing, {})
    options = QuestionOptions(draws=7, seed=3, guidance=2.0, context="prompt", ask=ask)
    assert concept_question(METHODS["ekfac"], truth, options) == OUTPUTS[ask](
        "a red star", "star", context="prompt", draws=7, seed=3, guidance=2.0
    )
    assert concept_question(METHODS["clip-cosine"], truth, options).kind == "concept"
    kinds = {name: concept_question(m, truth, options).kind for name, m in METHODS.items()
             if query_kind(m, ask)}  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == ask} == {
        name for name, method in METHODS.items() if ask in method.takes
    }
    assert all(kind == query_kind(METHODS[name], ask) for name, kind in kinds.items())


def test_an_output_that_there_is_not():
    with pytest.raises(QueryError, match="--ask 'gain' is not one of slider, contribution, loss"):
        QuestionOptions(ask="gain")


# --- scores -------------------------------------------------------------------------------------


def test_what_takes_outputs_alone_is_a_study_s_where_that_is_asked():
    for ask in ("contribution", None):
        require_askable(["ekfac-presence", "presence", "trak"], ask)
    with pytest.raises(MethodError, match=r"ekfac-presence takes neither .*: give --ask contribut"):
        require_askable(["ekfac-presence"], "slider")
    with pytest.raises(MethodError, match="ekfac-presence cannot be asked for a picture: leave it"):
        require_askable(["ekfac-presence"], "image")


@pytest.mark.parametrize("ask", ["contribution", "loss"])
def test_scores_of_outputs_are_those_of_the_index(places, tiny_model, tiny_images, tmp_path, ask):
    """With a file of contexts, under which the pictures are made."""
    (tmp_path / "contexts.json").write_text('["a blue fish", "a blue moon"]')
    context, method = str(tmp_path / "contexts.json"), METHODS["gradient-dot"]
    index = build_index(
        Denoiser.load(tiny_model), load_dataset(tiny_images), tmp_path / "index", batch_size=20,
        method=method.name, timesteps=1, dim=16, parameters="attn2-kv",
    )  # fmt: skip
    truths, options = (
        truths_of(places)[:1],
        QuestionOptions(2, guidance=2.0, context=context, ask=ask),
    )
    found = score_concepts({method: index}, truths, options, tmp_path / "scores")[method.name]
    alone = index.attribute(concept_question(method, truths[0], options), method=method.name)
    assert alone.provenance["query"]["output"] == ask
    np.testing.assert_allclose(found[0], alone.scores, rtol=1e-5, atol=1e-7)
    again = score_concepts({method: index}, truths, QuestionOptions(2), tmp_path / "scores")
    assert not np.allclose(again[method.name], found)


def test_indexes_of_a_curvature_and_of_none_lie_apart(tiny_model, tiny_images, tmp_path):
    recipe = {"timesteps": 1, "parameters": "attn2-kv", "projection": "identity"}
    found = build_indexes(
        Denoiser.load(tiny_model), load_dataset(tiny_images), tmp_path, ["trak", "ekfac"], **recipe
    )
    curvatures = {method.name: index.recipe.curvature for method, index in found.items()}
    assert curvatures == {"trak": "", "ekfac": "ekfac"}
    assert len({index.path for index in found.values()}) == 2


@pytest.mark.parametrize("named", [False, True])
def test_captions_cannot_ask_what_none_or_all_of_them_name(named):
    some, same = np.array([True, False]), np.full(2, named)
    truths = [Truth(w, w, some, ~some, n, {}) for w, n in (("star", some), ("moon", same))]
    require_named([METHODS["concept-d-trak"]], truths)
    require_named([METHODS["caption-d-trak"]], truths[:1])
    with pytest.raises(MethodError, match="asks by captions, and 'moon' is named by none"):
        require_named([METHODS["caption-d-trak"]], truths)


def test_scores_are_those_of_the_index_and_are_kept(places, tmp_path, monkeypatch):
    truths, options = truths_of(places)[:2], QuestionOptions(draws=1, guidance=2.0)
    methods = select_methods(open_indexes([places["concept"], places["pixel"]]), METHODS_HERE[:2])
    found = score_concepts(methods, truths, options, tmp_path)
    assert {name: rows.shape for name, rows in found.items()} == dict.fromkeys(
        METHODS_HERE[:2], (2, 20)
    )
    for method, folder in zip(METHODS_HERE[:2], ("concept", "pixel"), strict=True):
        index = Index.open(places[folder])  # with a model of its own
        query = concept_question(METHODS[method], truths[1], options)
        alone = index.attribute(query, method=method).scores
        np.testing.assert_allclose(found[method][1], alone, rtol=1e-5, atol=1e-7)

    asked = []
    original = Session.attribute

    def watched(session, query, **options):
        asked.append((options["method"], query.prompt))
        return original(session, query, **options)

    monkeypatch.setattr(Session, "attribute", watched)
    methods = select_methods(open_indexes([places["concept"], places["pixel"]]), METHODS_HERE)
    again = score_concepts(methods, truths, options, tmp_path)
    assert all((again[name] == rows).all() for name, rows in found.items())
    assert asked == [("random", truth.prompt) for truth in truths]
    next((tmp_path / "pixel-cosine").iterdir()).write_bytes(b"damaged")
    score_concepts(methods, truths, options, tmp_path)
    assert [name for name, _ in asked[2:]] == ["pixel-cosine"]
    score_concepts(methods, truths[:1], QuestionOptions(draws=1, seed=1, guidance=2.0), tmp_path)
    assert [name for name, _ in asked[3:]] == list(METHODS_HERE)


def test_a_question_is_asked_once_for_all_dampings(places, tmp_path, monkeypatch):
    truths, dampings = truths_of(places)[:2], [0.01, 1.0]
    methods = select_methods(open_indexes([places["concept"], places["pixel"]]), METHODS_HERE)
    asked = []
    original = Session.attribute

    def watched(session, query, **options):
        asked.append(options["damping"])
        return original(session, query, **options)

    def questions(method):
        return [concept_question(method, truth, QuestionOptions(1)) for truth in truths]

    monkeypatch.setattr(Session, "attribute", watched)
    found = sweep_dampings(methods, questions, tmp_path / "sweep_dampings", dampings)
    assert asked == [dampings, dampings, [0.1], [0.1], [0.1], [0.1]]  # the others have no kernel
    for ratio in dampings:
        alone = score_questions(methods, questions, tmp_path / "alone", ratio)
        for name, rows in alone.items():
            np.testing.assert_allclose(found[ratio][name], rows, rtol=1e-3, atol=1e-4)
    assert not (found[0.01]["concept-trak"] == found[1.0]["concept-trak"]).any()


def test_what_methods_ask_alike_is_asked_once(tiny_model, tiny_images, tmp_path):
    """Ablations differ in what they ask of training images, and in whether probes count alike."""
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(4)
    names = ("concept-trak-a", "concept-trak-b", "concept-trak", "d-trak")
    built = {
        METHODS[name]: build_index(
            denoiser, data, tmp_path / name, method=name, timesteps=2, dim=16, self_check=False
        )
        for name in names
    }
    truth = Truth("blue", "a blue fish", *(np.zeros(4, bool),) * 3, {})
    options = QuestionOptions(2)
    alone = {
        method.name: index.attribute(
            concept_question(method, truth, options), method=method.name
        ).scores
        for method, index in built.items()
    }
    for index in built.values():
        shutil.rmtree(index.path / "queries")
    first, *others = (Index.open(index.path) for index in built.values())
    opened = dict(zip(built, (first, *others), strict=True))
    found = score_questions(
        opened, lambda m: [concept_question(m, truth, options)], tmp_path / "scores"
    )
    for name, each in found.items():
        np.testing.assert_array_equal(each[0], alone[name])
    # one of the concept, one of it with probes at unit norm, one of the picture, and the picture
    assert len(list((first.path / "queries").iterdir())) == 4
    assert not any((index.path / "queries").exists() for index in others)
    assert not np.allclose(alone["concept-trak-a"], alone["concept-trak-b"])


def test_contexts_are_known_by_what_their_file_holds(places, tmp_path):
    """Another file under the same name is another question."""
    file, truths = tmp_path / "contexts.txt", truths_of(places)[:1]
    methods = select_methods(open_indexes([places["concept"]]), METHODS_HERE[:1])
    found = []
    for caption in ("a blue fish", "a blue moon on plain background"):
        file.write_text(caption)
        options = QuestionOptions(draws=1, context=str(file))
        found.append(score_concepts(methods, truths, options, tmp_path / "scores")["concept-trak"])
    assert not (found[0] == found[1]).any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"draws": 0}, "--draws 0 must be at least 1"),
        ({"damping": float("nan")}, "--damping nan must be a number"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
    ],
)
def test_what_no_question_can_be_asked_with(given, said):
    with pytest.raises((ParameterError, QueryError), match=said):
        QuestionOptions(**given)


def test_one_copy_of_the_model_serves_all_indexes(places, tmp_path, monkeypatch):
    loaded, load = [], Denoiser.load

    def watched(*args):
        loaded.append(args)
        return load(*args)

    monkeypatch.setattr(Denoiser, "load", watched)
    indexes = open_indexes([places["concept"], places["pixel"]])
    score_concepts(
        select_methods(indexes, METHODS_HERE), truths_of(places)[:1], QuestionOptions(1), tmp_path
    )
    assert len(loaded) == 1


def test_indexes_that_do_not_belong_together(places):
    with pytest.raises(QueryError, match=r"few is not of the images of .*pixel: leave it out"):
        open_indexes([places["pixel"], places["few"]])
    with pytest.raises(QueryError, match=r"other is not by the model of .*pixel: leave it out"):
        open_indexes([places["pixel"], places["other"]])


def test_a_folder_that_cannot_be_written_to_costs_a_warning(places, tmp_path):
    (tmp_path / "scores").write_text("a file")
    methods = select_methods(open_indexes([places["pixel"]]), ["random"])
    options, truths = QuestionOptions(draws=1), truths_of(places)[:1]
    with pytest.warns(HeadwaterWarning, match="not kept for the next time"):
        scores = score_concepts(methods, truths, options, tmp_path / "scores")
    assert scores["random"].shape == (1, 20)


def test_pictures_of_a_question_go_by_what_they_hold(tmp_path):
    """A set that is given in memory, a folder before and after a file was changed, and names."""
    folder = tiny_folder(tmp_path / "pictures", 4)
    images = load_dataset(folder)

    def facts(pictures) -> str:
        return json.dumps(_query_facts(Contribution("a star", "star", pictures=pictures)))

    found = {facts(images.take([0, 1])), facts(images.take([0, 2])), facts(folder)}
    PIL.Image.effect_noise((16, 16), 90).save(next(folder.rglob("*.png")))
    found |= {facts(folder), *map(facts, PICTURES)}
    assert len(found) == 4 + len(PICTURES)
