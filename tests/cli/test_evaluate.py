"""`headwater evaluate isolation | retrieval`: from indexes and a truth to a table."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from support.command_line import assert_refused, headwater
from support.tiny import tiny_folder, tiny_pipeline

from headwater import Denoiser, Index, load_dataset
from headwater.errors import MethodError, ParameterError, QueryError
from headwater.evaluation.ground_truth.concepts import Truth, read_truths
from headwater.evaluation.ground_truth.oracles import membership, shuffled
from headwater.evaluation.studies import method_scores, retrieval
from headwater.evaluation.studies.method_scores import (
    Asking,
    answered,
    open_all,
    question,
    require_named,
    scores,
    serving,
    swept,
)
from headwater.index.build import build_index
from headwater.methods import METHODS
from headwater.queries.concept import Concept
from headwater.queries.image import Image
from headwater.scenes.dataset import pictures
from headwater.scenes.vocabulary import ATTRIBUTES

SMALL = ["--timesteps", 1, "--dim", 16, "--parameters", "attn2-kv", "--no-self-check"]
METHODS_HERE = ("concept-trak", "pixel-cosine", "random")
WORDS = ("blue", "fish", "moon", "striped")


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_model, tiny_images) -> dict[str, Path]:
    """What stands for {concept}, {pixel}, ... in commands."""
    tmp = tmp_path_factory.mktemp("evaluate")
    shown = {p.id: p for p in pictures()[:20]}
    entries = [
        {"concept": word, "positives": [f"{id}.png" for id, p in shown.items() if p.shows(word)]}
        for word in WORDS
    ]
    (tmp / "truth.json").write_text(json.dumps(entries))
    (tmp / "one.json").write_text(json.dumps(entries[:1]))
    (tmp / "file").write_text("a file")
    few, other = tiny_folder(tmp / "images", 5), tiny_pipeline(tmp / "model", seed=1)
    made = {
        "concept": (tiny_model, tiny_images, "concept-trak", SMALL),
        "pixel": (tiny_model, tiny_images, "pixel-cosine", []),
        "few": (tiny_model, few, "pixel-cosine", []),
        "other": (other, tiny_images, "pixel-cosine", []),
    }
    for name, (model, images, method, options) in made.items():
        result = headwater("index", model, images, tmp / name, "--method", method, *options)
        assert result.code == 0, result.err
    return {name: tmp / name for name in made} | {"tmp": tmp, "truth": tmp / "truth.json"}


def truths_of(places) -> list[Truth]:
    return read_truths(str(places["truth"]), Index.open(places["pixel"]).samples)


# --- methods ------------------------------------------------------------------------------------


def test_every_method_is_answered_by_the_first_index_that_serves_it(places):
    indexes = open_all([places["pixel"], places["concept"], places["pixel"]])
    found = serving(indexes)
    assert {method.name: index for method, index in found.items()} == {
        "concept-trak": indexes[1],
        "pixel-dot": indexes[0],
        "pixel-cosine": indexes[0],
        "random": indexes[0],
    }
    every = {method.name for method in serving(indexes, ["all"])}
    assert every == {method.name for method in found} | {"unlearning", "concept-trak-d"}
    assert [m.name for m in serving(indexes, ["random", "unlearning"])] == ["random", "unlearning"]


def test_methods_that_are_not_served(places):
    indexes = open_all([places["pixel"]])
    with pytest.raises(MethodError, match="no index here serves trak: build one with `--method tr"):
        serving(indexes, ["random", "trak"])
    with pytest.raises(MethodError, match="there is no method 'tark'"):
        serving(indexes, ["tark"])


def test_what_a_method_is_asked():
    nothing = np.zeros(3, bool)
    truth = Truth("star", "a red star", nothing, nothing, nothing, {})
    asking = Asking(draws=7, seed=3, guidance=2.0, context="prompt")
    assert question(METHODS["concept-trak"], truth, asking) == Concept(
        "a red star", "star", context="prompt", draws=7, seed=3
    )
    assert question(METHODS["d-trak"], truth, asking) == Image(
        "a red star", draws=7, seed=3, guidance=2.0
    )
    assert question(METHODS["clip-cosine"], truth, asking).kind == "concept"
    assert question(METHODS["caption-d-trak"], truth, asking).context == "auto"  # takes no other
    kinds = {name: question(method, truth, asking).kind for name, method in METHODS.items()}
    assert all(kind in METHODS[name].takes for name, kind in kinds.items())


# --- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
def test_captions_cannot_ask_what_none_or_all_of_them_name(named):
    some, same = np.array([True, False]), np.full(2, named)
    truths = [Truth(w, w, some, ~some, n, {}) for w, n in (("star", some), ("moon", same))]
    require_named([METHODS["concept-d-trak"]], truths)
    require_named([METHODS["caption-d-trak"]], truths[:1])
    with pytest.raises(MethodError, match="asks by captions, and 'moon' is named by none"):
        require_named([METHODS["caption-d-trak"]], truths)


def test_scores_are_those_of_the_index_and_are_kept(places, tmp_path, monkeypatch):
    truths, asking = truths_of(places)[:2], Asking(draws=1, guidance=2.0)
    methods = serving(open_all([places["concept"], places["pixel"]]), METHODS_HERE[:2])
    found = scores(methods, truths, asking, tmp_path)
    assert {name: rows.shape for name, rows in found.items()} == dict.fromkeys(
        METHODS_HERE[:2], (2, 20)
    )
    for method, folder in zip(METHODS_HERE[:2], ("concept", "pixel"), strict=True):
        index = Index.open(places[folder])  # with a model of its own
        query = question(METHODS[method], truths[1], asking)
        alone = index.attribute(query, method=method).scores
        np.testing.assert_allclose(found[method][1], alone, rtol=1e-5, atol=1e-7)

    asked = []
    original = method_scores.attribute

    def watched(index, query, **options):
        asked.append((options["method"], query.prompt))
        return original(index, query, **options)

    monkeypatch.setattr(method_scores, "attribute", watched)
    methods = serving(open_all([places["concept"], places["pixel"]]), METHODS_HERE)
    again = scores(methods, truths, asking, tmp_path)
    assert all((again[name] == rows).all() for name, rows in found.items())
    assert asked == [("random", truth.prompt) for truth in truths]
    next((tmp_path / "pixel-cosine").iterdir()).write_bytes(b"damaged")
    scores(methods, truths, asking, tmp_path)
    assert [name for name, _ in asked[2:]] == ["pixel-cosine"]
    scores(methods, truths[:1], Asking(draws=1, seed=1, guidance=2.0), tmp_path)
    assert [name for name, _ in asked[3:]] == list(METHODS_HERE)


def test_a_question_is_asked_once_for_all_dampings(places, tmp_path, monkeypatch):
    truths, dampings = truths_of(places)[:2], [0.01, 1.0]
    methods = serving(open_all([places["concept"], places["pixel"]]), METHODS_HERE)
    asked = []
    original = method_scores.attribute

    def watched(index, query, **options):
        asked.append(options["damping"])
        return original(index, query, **options)

    def questions(method):
        return [question(method, truth, Asking(1)) for truth in truths]

    monkeypatch.setattr(method_scores, "attribute", watched)
    found = swept(methods, questions, tmp_path / "swept", dampings)
    assert asked == [dampings, dampings, [0.1], [0.1], [0.1], [0.1]]  # the others have no kernel
    for ratio in dampings:
        alone = answered(methods, questions, tmp_path / "alone", ratio)
        for name, rows in alone.items():
            np.testing.assert_allclose(found[ratio][name], rows, rtol=1e-6)
    assert not (found[0.01]["concept-trak"] == found[1.0]["concept-trak"]).any()


def test_what_methods_ask_alike_is_asked_once(tiny_model, tiny_images, tmp_path):
    """Ablations differ in what they ask of training images, and in whether probes count alike."""
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images)
    names = ("concept-trak-a", "concept-trak-b", "concept-trak", "d-trak")
    built = {
        METHODS[name]: build_index(
            denoiser, data, tmp_path / name, method=name, timesteps=2, dim=16, self_check=False
        )
        for name in names
    }
    truth = Truth("blue", "a blue fish", *(np.zeros(20, bool),) * 3, {})
    asking = Asking(2)
    alone = {
        method.name: index.attribute(question(method, truth, asking), method=method.name).scores
        for method, index in built.items()
    }
    for index in built.values():
        shutil.rmtree(index.path / "queries")
    first, *others = (Index.open(index.path) for index in built.values())
    opened = dict(zip(built, (first, *others), strict=True))
    found = answered(opened, lambda m: [question(m, truth, asking)], tmp_path / "scores")
    for name, each in found.items():
        np.testing.assert_array_equal(each[0], alone[name])
    # one of the concept, one of it with probes at unit norm, one of the picture
    assert len(list((first.path / "queries").iterdir())) == 3
    assert not any((index.path / "queries").exists() for index in others)
    assert not np.allclose(alone["concept-trak-a"], alone["concept-trak-b"])


def test_contexts_are_known_by_what_their_file_holds(places, tmp_path):
    """Another file under the same name is another question."""
    file, truths = tmp_path / "contexts.txt", truths_of(places)[:1]
    methods = serving(open_all([places["concept"]]), METHODS_HERE[:1])
    found = []
    for caption in ("a blue fish", "a blue moon on plain background"):
        file.write_text(caption)
        asking = Asking(draws=1, context=str(file))
        found.append(scores(methods, truths, asking, tmp_path / "scores")["concept-trak"])
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
        Asking(**given)


def test_one_copy_of_the_model_serves_all_indexes(places, tmp_path):
    indexes = open_all([places["concept"], places["pixel"]])
    scores(serving(indexes, METHODS_HERE), truths_of(places)[:1], Asking(1), tmp_path)
    assert indexes[0].denoiser is indexes[1].denoiser


def test_indexes_that_do_not_belong_together(places):
    with pytest.raises(QueryError, match=r"few is not of the images of .*pixel: leave it out"):
        open_all([places["pixel"], places["few"]])
    with pytest.raises(QueryError, match=r"other is not by the model of .*pixel: leave it out"):
        open_all([places["pixel"], places["other"]])


def test_membership_ranks_by_captions_alone(places):
    truths = truths_of(places)
    for truth, row in zip(truths, shuffled(membership(truths)), strict=True):
        assert row[truth.names].min() > row[~truth.names].max()
        assert len(set(row)) == len(row)
    named = membership(truths)
    assert set(named.ravel()) <= {0, 1}
    assert (shuffled(named, seed=1) != shuffled(named)).all()
    assert (shuffled(named[1:]) == shuffled(named)[1:]).all()


# --- measures -----------------------------------------------------------------------------------


def mask(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


#                    rank: 0123456789
TOY = Truth(
    "cat", "a cat, inked",
    shows=mask(          "x..x.x...."),
    ambiguous=mask(      ".x......x."),
    names=mask(          "xx.....x.."),
    others={"inked": mask("xxx......."), "small": mask("..........")},
)  # fmt: skip


def test_measures_by_hand():
    """Without the two ambiguous images: x . x . x . . . are shown, x and one false are named."""
    found = retrieval.everything(TOY, -np.arange(10.0), k=4)
    assert found == pytest.approx({
        "precision@4": 2 / 4,  # ranks 0 2 3 4
        "precision@50": 3 / 8,
        "recall@4": 2 / 3,
        "capped recall@4": 2 / 3,
        "average precision": (1 / 1 + 2 / 3 + 3 / 5) / 3,
        "isolation": 2 / 4 - (2 / 4 + 0) / 2,
        "unnamed precision@4": 2 / 4,  # ranks 2 3 4 5
        "falsely named@4": 0,
    })  # fmt: skip
    assert retrieval.everything(TOY, np.arange(10.0), k=3)["falsely named@3"] == 1 / 3
    assert retrieval.isolation(TOY, -np.arange(10.0), k=4) == pytest.approx(
        {"precision@4": 1 / 2, "others@4": 1 / 4, "isolation": 1 / 4}
    )


def test_what_cannot_be_counted_is_none():
    alone = Truth("cat", "a cat", TOY.shows, TOY.ambiguous, TOY.shows, {})
    found = retrieval.everything(alone, np.zeros(10), k=2)
    none = {name for name, value in found.items() if value is None}
    assert none == {"isolation", "unnamed precision@2", "falsely named@2"}
    assert retrieval.isolation(alone, np.zeros(10), k=2)["isolation"] is None


# --- the commands -------------------------------------------------------------------------------

FAST = "--index {pixel} --methods concept-trak,pixel-cosine,random --draws 1 --guidance 2"
RETRIEVAL = f"evaluate retrieval {{concept}} {{truth}} {{out}} {FAST} --top 3"


def evaluated(command: str, **places: Path):
    return headwater(*(part.format(**places) for part in shlex.split(command)))


@pytest.fixture(scope="module")
def done(places):
    """A folder that the command has written, and what it said."""
    out = places["tmp"] / "retrieval"
    return out, evaluated(RETRIEVAL, **places, out=out)


def test_retrieval(places, done):
    out, result = done
    assert (result.code, result.err) == (0, "")
    page = (out / "table.md").read_text()
    table, _, told = result.out.partition("\n\n")
    assert table in page and told == f"Results: {out / 'table.md'}\n"
    results = json.loads((out / "results.json").read_text())
    assert [row["method"] for row in results["rows"]] == [*METHODS_HERE, "the caption names it"]
    assert [row["asked"] for row in results["rows"]] == ["concept", "image", "concept", "caption"]
    assert [row["parameters"] for row in results["rows"]] == ["attn2-kv", None, None, None]
    assert {path.name for path in out.glob("*.png")} == {
        "precision.png", "average-precision.png", "isolation.png",
    }  # fmt: skip
    assert shlex.split(results["command"])[1:] == [
        part.format(**places, out=out) for part in shlex.split(RETRIEVAL)
    ]
    assert results["command"] in page and "precision@3: share of the 3 highest" in page
    assert [c["concept"] for c in results["concepts"]] == list(WORDS)
    assert [c["shows"] for c in results["concepts"]] == [
        sum(p.shows(word) for p in pictures()[:20]) for word in WORDS
    ]
    for row in results["rows"]:
        for metric, values in results["values"][row["method"]].items():
            there = [value for value in values if value is not None]
            if there:
                assert row[metric]["mean"] == pytest.approx(np.mean(there)), metric
                assert row[metric]["n"] == len(there)
    truths = truths_of(places)
    kept = scores(
        serving(open_all([places["concept"], places["pixel"]]), METHODS_HERE),
        truths, Asking(1, guidance=2.0), out / "scores",
    )  # fmt: skip
    for name, rows in kept.items():
        tops = [np.argsort(-row)[:3] for row in rows]
        top = [truth.shows[best].mean() for truth, best in zip(truths, tops, strict=True)]
        assert results["values"][name]["precision@3"] == pytest.approx(top)


def test_isolation_of_the_scenes_in_json(places, tmp_path):
    command = "evaluate isolation {pixel} scenes {out} --methods random --json"
    result = evaluated(command, **places, out=tmp_path)
    shown = {w for p in pictures()[:20] for v in ATTRIBUTES.values() for w in v if p.shows(w)}
    assert result.code == 0 and result.err.startswith("warning: no image of the index shows ")
    results = json.loads(result.out)
    assert {each["concept"] for each in results["concepts"]} == shown
    assert all(len(each["others"]) == 3 for each in results["concepts"])
    row = results["rows"][0]
    alone = row["precision@10"]["mean"] - row["others@10"]["mean"]
    assert row["isolation"]["mean"] == pytest.approx(alone)
    assert {path.name for path in tmp_path.glob("*.png")} == {"precision.png", "isolation.png"}


REFUSED = {
    "no index": ("evaluate retrieval {tmp}/none {truth} {out}", "no index at {tmp}/none"),
    "no truth": ("evaluate retrieval {pixel} {tmp}/none {out}", "cannot read the truth '{tmp}/non"),
    "other images": (
        "evaluate retrieval {pixel} {truth} {out} --index {few}",
        "{few} is not of the images of {pixel}: leave it out",
    ),
    "not served": (
        "evaluate retrieval {pixel} {truth} {out} --methods d-trak",
        "no index here serves d-trak: build one with `--method d-trak` and give it as --index",
    ),
    "nothing to tell apart": (
        "evaluate isolation {pixel} {tmp}/one.json {out} --methods random",
        "no prompt of the truth names two of its concepts",
    ),
    "top": ("evaluate retrieval {pixel} {truth} {out} --top 0", "--top 0 must be at least 1"),
    "draws": ("evaluate retrieval {pixel} {truth} {out} --draws x", "--draws 'x' must be a number"),
    "no draws": (
        "evaluate retrieval {pixel} {truth} {out} --draws 0",
        "--draws 0 must be at least",
    ),
    "out": ("evaluate retrieval {pixel} {truth} {tmp}/file", "cannot write to {tmp}/file: File ex"),
}


@pytest.mark.parametrize("command, said", REFUSED.values(), ids=REFUSED)
def test_refused(places, tmp_path, command, said):
    result = evaluated(command, **places, out=tmp_path / "out")
    assert_refused(result, said.format(**places))
    assert not list(tmp_path.rglob("*.*"))


def test_nothing_is_asked_where_no_plot_can_be_made(places, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = evaluated("evaluate retrieval {pixel} {truth} {out}", **places, out=tmp_path / "out")
    assert_refused(result, "plots need matplotlib: pip install 'headwater[evaluate]'")
    assert not (tmp_path / "out").exists()


def test_what_was_scored_needs_no_model(places, done, tmp_path):
    out, first = done
    moved = shutil.copytree(places["concept"], tmp_path / "concept")
    facts = json.loads((moved / "index.json").read_text())
    facts["model"]["source"] = str(tmp_path / "gone")
    (moved / "index.json").write_text(json.dumps(facts))
    again = evaluated(RETRIEVAL, **{**places, "concept": moved}, out=out)
    assert again == first
