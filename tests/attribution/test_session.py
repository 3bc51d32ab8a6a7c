"""A session: shared by threads, quick where an answer is kept, never fooled by a file's name."""

import gc
import shutil
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.brute_force import inverse
from support.command_line import headwater
from support.disks import read_only
from support.index_files import state
from support.tiny import tiny_pipeline

from headwater import (
    Concept,
    Denoiser,
    Image,
    Index,
    Local,
    Session,
    build_index,
    load_dataset,
    write_answers,
)
from headwater.attribution import gram, resources
from headwater.attribution.scorers import gradient
from headwater.errors import HeadwaterWarning, MismatchError, QueryError
from headwater.models.clip import Clip
from headwater.runtime.progress import Stopped, listening
from headwater.storage import files

PROMPT = "a red star"
OPTIONS = dict(parameters="attn2-kv", timesteps=1, dim=32, self_check=False)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, tiny_model, tiny_images) -> Path:
    """An index of ten images for each of two methods."""
    folder = tmp_path_factory.mktemp("sessions")
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(10)
    for method in ("trak", "concept-trak"):
        build_index(denoiser, data, folder / method, method=method, **OPTIONS)
    return folder


@pytest.fixture
def folder(indexes, tmp_path) -> Path:
    """Copies of them that were never asked."""
    return Path(shutil.copytree(indexes, tmp_path / "indexes"))


def test_what_cannot_be_stopped_says_so(indexes):
    told, session = [], Session.open(indexes / "trak")
    with listening(told.append):
        found = session.kernel().gram()
        del told[:]  # of its shards
        assert session.denoiser and len(found.factor(0.1)) == len(found.spectrum().values) == 10
    calls = [each.what.removesuffix(", which cannot be stopped") for each in told]
    assert calls == ["loading the model", "factor of 10 x 10", "eigenvalues of 10 x 10"]


def test_what_cannot_be_stopped_is_not_begun_where_nobody_waits(indexes, monkeypatch):
    def left(reached):
        raise Stopped

    found = Session.open(indexes / "trak").kernel().gram()
    monkeypatch.setattr(torch.linalg, "cholesky_ex", None)
    with listening(left), pytest.raises(Stopped):
        found.factor(0.1)


# --- several users ------------------------------------------------------------------------------


def test_threads_that_share_a_session_get_the_right_answers(indexes, folder, monkeypatch):
    """One by one: while a question is answered, no other one reaches the model."""
    concepts = [Concept(PROMPT, word, context="bare", draws=2) for word in ("red", "star")]
    expected = [Session.open(folder / "concept-trak").attribute(query) for query in concepts]
    session = Session.open(indexes / "concept-trak")
    denoiser, inside, met = session.denoiser, [], threading.Event()
    predict = denoiser.predict

    def watched(*args):
        inside.append(threading.get_ident())
        if len(set(inside)) > 1:
            met.set()
        met.wait(0.05)  # gives another thread the chance to come in, if it can
        try:
            return predict(*args)
        finally:
            inside.pop()

    monkeypatch.setattr(denoiser, "predict", watched)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda query: session.attribute(query, fresh=True), concepts))
    assert not met.is_set()
    for ours, alone in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(ours.scores, alone.scores)
    assert not np.array_equal(answers[0].scores, answers[1].scores)


def test_a_thread_that_holds_the_session_may_ask_it(indexes):
    """As a journey does, whose steps are questions."""
    session = Session.open(indexes / "trak")
    with session.lock:
        steps = session.attribute_steps(Image(PROMPT, draws=1, steps=2))
    assert [step.query.step for step in steps] == [999]


# --- answers that are kept ----------------------------------------------------------------------


QUESTIONS = {
    "concept": ("concept-trak", lambda file: Concept(PROMPT, "star", context="bare", draws=2)),
    "picture": ("trak", lambda file: Image(PROMPT, draws=2, seed=1, steps=3)),
    "file": ("trak", lambda file: Image(file=file, draws=2)),
    "local": ("concept-trak", lambda file: Local(Concept(PROMPT, "star", draws=2), file, steps=1)),
}


def refuse_to_load(monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Denoiser, "load", load)
    monkeypatch.setattr(Clip, "__init__", load)


@pytest.mark.parametrize("kind", QUESTIONS)
def test_an_answer_that_is_kept_loads_no_model(folder, tiny_images, tmp_path, monkeypatch, kind):
    method, ask = QUESTIONS[kind]
    query = ask(tiny_images / "train-00011.png")
    session = Session.open(folder / method)
    first = session.attribute(query)
    write_answers(session, [first], tmp_path / "first", guidance=3.0)
    refuse_to_load(monkeypatch)
    reopened, said = Session.open(folder / method), []
    again = reopened.attribute(query, note=said.append)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert again.provenance["reused_query_gradient"] and "computed before" in said[0]
    write_answers(reopened, [again], tmp_path / "again", guidance=3.0)
    pictures = [(tmp_path / name / "query.png").read_bytes() for name in ("first", "again")]
    assert pictures[0] == pictures[1] and (tmp_path / "again/report.html").is_file()
    with pytest.raises(AssertionError, match="was loaded"):
        reopened.attribute(query, fresh=True)


COMMANDS = {
    "concept": ("concept-trak", "concept", [PROMPT, "--concept", "star"]),
    "picture": ("trak", "image", ["--prompt", PROMPT]),
    "file": ("trak", "image", ["{file}"]),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_that_is_asked_again_loads_no_model(
    folder, tiny_images, tmp_path, monkeypatch, kind
):
    method, command, options = COMMANDS[kind]
    given = [option.format(file=tiny_images / "train-00011.png") for option in options]
    out = tmp_path / "out"
    ask = (command, folder / method, *given, "--draws", 2, "--out", out)
    first = headwater(*ask)
    assert first.code == 0, first.err
    shutil.rmtree(out)
    refuse_to_load(monkeypatch)
    again = headwater(*ask)
    assert again.code == 0, again.err
    assert again.out == first.out and (out / "report.html").is_file()
    assert "using the query gradient computed before" in again.err


# --- files are known by what they hold ----------------------------------------------------------


CHANGED = {
    "a picture": ("trak", "picture", lambda file: Image(file=file, draws=2)),
    "a mask": ("trak", "mask", lambda mask: Image(PROMPT, mask=mask, draws=2, steps=3)),
    "a local concept": (
        "concept-trak",
        "picture",
        lambda file: Local(Concept(PROMPT, "star", draws=2), file, steps=1),
    ),
}


@pytest.fixture
def contents(tiny_images, tmp_path) -> dict[str, list[bytes]]:
    """Two pictures, and as masks two of their like."""
    masks = []
    for box in ((0, 0, 8, 16), (8, 0, 16, 16)):
        mask = Pillow.new("L", (16, 16))
        mask.paste(255, box)
        mask.save(tmp_path / "mask.png")
        masks.append((tmp_path / "mask.png").read_bytes())
    files = [tiny_images / f"train-000{row}.png" for row in (11, 12)]
    return {"picture": [file.read_bytes() for file in files], "mask": masks}


@pytest.mark.parametrize("kind", CHANGED)
def test_another_picture_under_the_same_name_is_another_question(folder, tmp_path, contents, kind):
    """In the same session, and in one that is opened later."""
    method, part, ask = CHANGED[kind]
    first, second = contents[part]
    file = tmp_path / "q.png"
    session = Session.open(folder / method)

    def answered(content: bytes, asked: Session):
        file.write_bytes(content)
        answer = asked.attribute(ask(file))
        return answer.scores, answer.provenance["query"][f"{part} sha256"]

    before, digest = answered(first, session)
    after, other = answered(second, session)
    assert digest != other and not np.array_equal(before, after)
    np.testing.assert_array_equal(answered(first, session)[0], before)
    reopened = Session.open(folder / method)
    for content, scores in ((second, after), (first, before)):
        np.testing.assert_array_equal(answered(content, reopened)[0], scores)


def test_a_report_shows_the_picture_that_was_asked_about(folder, tmp_path, contents):
    session, file = Session.open(folder / "trak"), tmp_path / "q.png"
    for number, content in enumerate(contents["picture"]):
        file.write_bytes(content)
        attribution = session.attribute(Image(file=file, draws=1))
        write_answers(session, [attribution], tmp_path / str(number))
        with Pillow.open(file) as own, Pillow.open(tmp_path / f"{number}/query.png") as shown:
            assert shown.tobytes() == own.convert("RGB").tobytes()


# --- checkpoints --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, tiny_model, tiny_images) -> Path:
    """An index of three checkpoints."""
    folder = tmp_path_factory.mktemp("ensemble")
    others = [tiny_pipeline(folder / str(seed), seed=seed) for seed in (1, 2)]
    data = load_dataset(tiny_images).first(6)
    options = dict(method="trak", checkpoints=others, **OPTIONS)
    build_index(Denoiser.load(tiny_model), data, folder / "index", **options)
    return folder / "index"


@pytest.mark.parametrize("method", ["tracin", "gas"])
def test_one_checkpoint_is_in_memory_at_a_time(ensemble, tiny_images, monkeypatch, method):
    """Beside the index's own model, which other questions need again."""
    loaded, alive, load = [], [], Denoiser.load

    def counted(*args, **options):
        gc.collect()  # pipelines refer to themselves
        alive.append(sum(model() is not None for model in loaded))
        denoiser = load(*args, **options)
        loaded.append(weakref.ref(denoiser))
        return denoiser

    monkeypatch.setattr(Denoiser, "load", counted)
    session = Session.open(ensemble)
    query = Image(file=tiny_images / "train-00011.png", draws=2)
    first = session.attribute(query, method=method, fresh=True)
    assert len(loaded) == 3 and alive == [0, 1, 1]
    gc.collect()
    assert [model() is not None for model in loaded] == [True, False, False]
    again = session.attribute(query, method=method, fresh=True)
    assert alive == [0, 1, 1, 1, 1]
    np.testing.assert_array_equal(again.scores, first.scores)


# --- what it holds ------------------------------------------------------------------------------


def test_a_session_lends_what_questions_have_made(folder, tiny_images, monkeypatch):
    """To an index of other rows by the same model."""
    lender, other = (Session.open(folder / name) for name in ("trak", "concept-trak"))
    picture = Image(PROMPT, steps=3)
    made = lender.picture(picture)
    lender.lend_to(other)
    refuse_to_load(monkeypatch)
    assert other.denoiser is lender.denoiser and other.picture(picture) is made
    assert other.queries == lender.queries


def test_kinds_of_words_are_mined_once(folder, monkeypatch):
    kinds = Session.open(folder / "trak").kinds
    monkeypatch.setattr(resources, "mine_kinds", None)
    assert Session.open(folder / "trak").kinds == kinds and all(
        isinstance(kind, tuple) for kind in kinds
    )


def test_what_is_let_go_of_is_made_again(folder):
    session = Session.open(folder / "trak")
    model, inverse = session.denoiser, session.kernel().inverse(0.1)
    assert session.denoiser is model and session.kernel().inverse(0.1) is inverse
    session.release()
    assert session.denoiser is not model and session.kernel().inverse(0.1) is not inverse
    assert session.denoiser.fingerprint() == model.fingerprint()
    assert session.kernel().inverse(0.1).factor.equal(inverse.factor)


def test_a_session_says_what_it_lacks(folder, tmp_path):
    session = Session.open(folder / "trak")
    with pytest.raises(QueryError, match="needs a CLIP model: give its folder as --clip"):
        session.clip()
    other = Denoiser.load(tiny_pipeline(tmp_path / "other", seed=1))
    with pytest.raises(MismatchError, match="its weights or settings differ: build the index"):
        print(Session.open(folder / "trak", denoiser=other).denoiser)
    index = Index.open(folder / "trak", denoiser=other)
    shards = tuple(replace(shard, checksum="sha256:00") for shard in index.manifest.shards)
    index.manifest = replace(index.manifest, shards=shards)
    with pytest.raises(MismatchError, match="or it is, and the index is of format version 1"):
        print(Session(index).denoiser)


# --- one pass over the rows -----------------------------------------------------------------------


@pytest.fixture
def scans(monkeypatch):
    """A list that grows by one with each pass over the rows of an index."""
    passes, scan = [], Index.scan
    monkeypatch.setattr(Index, "scan", lambda index, *on: passes.append(1) or scan(index, *on))
    return passes


def test_several_questions_and_dampings_are_one_pass(folder, scans):
    session = Session.open(folder / "trak")
    asked = [Image(PROMPT, seed=seed, draws=2 + seed, steps=3) for seed in range(3)]
    dampings = [0.1, 0.5, 2.0]
    alone = [session.attribute(each, damping=dampings) for each in asked]
    scans.clear()
    together = session.attribute(asked, damping=dampings)
    assert len(scans) == 1
    for one, many in zip(alone, together, strict=True):
        assert many.query == one.query and many.provenance["query"] == one.provenance["query"]
        for ratio in dampings:
            close = dict(rtol=1e-5, atol=1e-5 * np.abs(one.scores).max())
            np.testing.assert_allclose(many.sweep[ratio], one.sweep[ratio], **close)
        np.testing.assert_allclose(many.certainty.errors, one.certainty.errors, rtol=1e-3)


def test_draws_that_are_added_are_scored_alone(folder, scans, monkeypatch):
    """Rounds of new draws, of all questions that want more; no draw is scored twice."""
    monkeypatch.setattr(gradient, "FIRST_DRAWS", 2)
    monkeypatch.setattr(gradient, "MOST_DRAWS", 8)
    monkeypatch.setattr(gradient, "STABLE", 2.0)  # never
    session = Session.open(folder / "trak")
    asked = [Image(PROMPT, seed=seed, draws=None, steps=3) for seed in range(2)]
    fixed = session.attribute([replace(each, draws=8) for each in asked])
    for method in ("trak", "gradient-cosine"):  # whose length is that of all draws
        scans.clear()
        found = session.attribute(asked, method=method)
        if method == "trak":
            assert len(scans) == 3  # 2, 4 and 8 draws
        fixed = session.attribute([replace(each, draws=8) for each in asked], method=method)
        for one, other in zip(found, fixed, strict=True):
            assert one.certainty.draws == other.certainty.draws == 8
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-5)


def test_what_rows_count_in_a_kernel_is_kept(folder, scans, monkeypatch, tmp_path):
    """Leverages take a pass and a solution for each row: once for an index and damping."""
    path = shutil.copytree(folder / "trak", tmp_path / "index")
    question = Image(PROMPT, draws=2, steps=3)
    first = Session.open(path).attribute(question, method="renormalised-influence")
    scans.clear()
    monkeypatch.setattr(resources, "gram", None)
    again = Session.open(path).attribute(question, method="renormalised-influence")
    assert len(scans) == 1 and np.array_equal(again.scores, first.scores)
    other = Session.open(path).attribute(question, method="renormalised-influence", damping=0.5)
    assert not np.allclose(other.scores, first.scores)


@pytest.mark.parametrize(
    "lie",
    [
        lambda tensor: tensor[1:],
        lambda tensor: tensor[None],
        lambda tensor: tensor.to(torch.complex64),
        lambda tensor: torch.full_like(tensor, float("nan")),
    ],
    ids=["cut", "another shape", "complex", "NaN"],
)
def test_what_a_stranger_has_kept_is_computed_again(folder, lie):
    """Matrices, factors, numbers of rows, and rows of questions; their checksums are right."""
    query = Image(PROMPT, draws=2, steps=3)

    def answers():
        session = Session.open(folder / "trak")
        asked = [("trak", None), ("trak", [0.1, 1.0]), ("renormalised-influence", None)]
        return [session.attribute(query, method=m, damping=d).scores for m, d in asked]

    first, lied = answers(), set()
    index = folder / "trak"
    for path in [*index.glob("kernels/*"), *index.glob("queries/*")]:
        tensors, metadata = files.read_tensors_and_metadata(path)
        if "image" not in tensors:
            lied.update(tensors)
            files.write_tensors(path, {name: lie(own) for name, own in tensors.items()}, metadata)
    assert lied == {"gram", "factor", "values", "vectors", "norms", "draws"}
    for before, after in zip(first, answers(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_list_of_what_are_no_questions(folder):
    session = Session.open(folder / "trak")
    assert session.attribute([]) == []
    with pytest.raises(QueryError, match="'a star' is a str, no question"):
        session.attribute([Image(PROMPT, draws=1), "a star"])


# --- images left out of the kernel ----------------------------------------------------------------


def test_a_kernel_of_some_images_scores_all(folder, monkeypatch):
    session, inside = Session.open(folder / "trak"), torch.ones(10, dtype=torch.bool)
    inside[[2, 7]] = False
    left_out = [session.index.samples[row].id for row in (2, 7)]
    rows = torch.cat(list(session.index.blocks()))
    psi = torch.randn(1, rows.shape[1])
    (ours,) = session.kernel_without(left_out).trak(psi, [0.1])
    exact = psi.double() @ inverse(rows[inside].double(), 0.1) @ rows.double().T
    torch.testing.assert_close(
        ours.double(), exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item()
    )
    monkeypatch.setattr(resources, "gram", None)  # kept
    again = Session.open(folder / "trak").kernel_without(left_out)
    assert torch.equal(again.trak(psi, [0.1])[0], ours)
    others = Session.open(folder / "trak").kernel_without(left_out[:1])
    with pytest.raises(TypeError, match="not callable"):  # which is not
        others.trak(psi, [0.1])


def test_an_index_on_a_read_only_disk_answers(folder, tmp_path, monkeypatch):
    """And keeps nothing, which is said."""
    question = Concept(PROMPT, "star", draws=2, context="prompt")
    expected = Session.open(shutil.copytree(folder / "trak", tmp_path / "x")).attribute(question)
    nothing_kept = shutil.ignore_patterns("queries", "kernels")
    index = shutil.copytree(folder / "trak", tmp_path / "read-only", ignore=nothing_kept)
    before = state(index)
    read_only(monkeypatch, index)
    said = r"not kept for the next time: cannot write .*/(queries|kernels)/.*: Read-only file"
    with pytest.warns(HeadwaterWarning, match=said) as remarks:
        found = Session.open(index).attribute(question)
    assert {Path(str(each.message).split()[8]).parent.name for each in remarks} == {
        "queries", "kernels",
    }  # fmt: skip
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert state(index) == before


def test_images_that_cannot_be_left_out(folder):
    session = Session.open(folder / "trak")
    with pytest.raises(QueryError, match=r"'none' is no image of .*: leave it out"):
        session.kernel_without(["none"])
    with pytest.raises(QueryError, match=r"no image of .* is left for the kernel: name fewer"):
        session.kernel_without([sample.id for sample in session.index.samples])


def test_a_kernel_that_was_killed_goes_on(tmp_path, tiny_model, tiny_images, monkeypatch):
    """And takes no sum that is damaged."""
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    data, denoiser = load_dataset(tiny_images), Denoiser.load(tiny_model)
    options = {**OPTIONS, "dim": 8, "method": "trak"}
    built = build_index(denoiser, data, tmp_path / "index", **options)
    exact = Session(built).kernel().gram().matrix
    (kept,) = built.path.glob("kernels/*")
    blocks = list(built.blocks())
    halves = [blocks[0][:10], blocks[0][10:]]

    def scan(index, *on, until=2):
        yield from halves[:until]
        if until < 2:
            raise KeyboardInterrupt

    for damage in (False, True):
        kept.unlink()
        with monkeypatch.context() as patch:
            patch.setattr(Index, "scan", lambda index, *on: scan(index, until=1))
            with pytest.raises(KeyboardInterrupt):
                Session(built).kernel().gram()
        (begun,) = built.path.glob("kernels/*")
        assert begun != kept
        if damage:
            begun.write_bytes(begun.read_bytes()[:-8])
        with monkeypatch.context() as patch:
            patch.setattr(Index, "scan", scan)
            found = Session(built).kernel().gram().matrix
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-9)
        assert list(built.path.glob("kernels/*")) == [kept]
