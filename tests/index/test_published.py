"""Rows of the published code as an index: asked by brute force too, and refused where damaged."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from support.command_line import assert_refused, headwater

from headwater import Concept, Feature, Image, Index, Session, import_rows, load_dataset
from headwater.errors import MethodError, MismatchError, NonFiniteError, StoreError
from headwater.methods.table import METHODS
from headwater.report.concept_trak import write_concept_trak
from headwater.report.export import write_answers
from headwater.storage import arrays

NAME = "attn2-dps-NFE10-norm-ddim-gs_7.5"
ROWS = np.random.default_rng(0).normal(size=(20, 12)).astype(np.float32)
PSI = np.random.default_rng(1).normal(size=(1, 12)).astype(np.float32)


def laid_out(folder, rows=ROWS, split=(8, 8, 4)):
    """The files as the published code makes them: `np.memmap` without a header, float32."""
    folder.mkdir(parents=True)
    start = 0
    for i, count in enumerate(split):
        path = folder / f"train_grad-{i}.npy"
        map = np.memmap(path, np.float32, mode="w+", shape=(count, rows.shape[1]))
        map[:] = rows[start : start + count]
        map.flush()
        start += count
    return folder


@pytest.fixture(scope="module")
def images(tiny_images):
    return load_dataset(tiny_images)


@pytest.fixture(scope="module")
def places(tmp_path_factory, images):
    tmp = tmp_path_factory.mktemp("published")
    rows = laid_out(tmp / NAME)
    np.save(tmp / "concept_grad.npy", PSI)
    return {
        "rows": rows,
        "index": import_rows(rows, images, dim=12),
        "psi": tmp / "concept_grad.npy",
    }


def theirs(rows, psi, lamb_r=1.0):
    """Their formula: a kernel that is a sum, lambda in tenths of its mean eigenvalue."""
    rows, psi = rows.astype(np.float64), psi.astype(np.float64)
    kernel = rows.T @ rows
    lamb = lamb_r * 0.1 * np.linalg.eigvalsh(kernel).mean()
    return (psi @ np.linalg.inv(kernel + lamb * np.eye(len(kernel))) @ rows.T)[0]


# --- asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.1, 0.001, 10.0])
def test_scores_are_theirs_but_for_the_number_of_images(places, damping):
    answer = Session(places["index"]).attribute(Feature(places["psi"]), damping=damping)
    exact = len(ROWS) * theirs(ROWS, PSI, damping / 0.1)
    np.testing.assert_allclose(answer.scores, exact, rtol=2e-4, atol=1e-4 * abs(exact).max())
    assert answer.method == "concept-trak" and answer.unsure == "the feature is given"
    np.testing.assert_array_equal(answer.feature, PSI[0])


def test_several_rows_of_a_feature_are_draws(places, tmp_path):
    psi = np.random.default_rng(4).normal(size=(6, 12)).astype(np.float32)
    np.save(tmp_path / "draws.npy", psi)
    answer = Session(places["index"]).attribute(Feature(tmp_path / "draws.npy"))
    exact = len(ROWS) * theirs(ROWS, psi.mean(0, keepdims=True))
    np.testing.assert_allclose(answer.scores, exact, rtol=2e-4, atol=1e-4 * abs(exact).max())
    assert answer.certainty is not None and answer.certainty.draws == 6
    assert answer.provenance["query"]["draws"] == 6 and answer.unsure == ""


def test_rows_go_through_memory_some_at_a_time(places, monkeypatch):
    monkeypatch.setattr(arrays, "_BLOCK", 3 * 4 * 12)
    blocks = list(places["index"].blocks())
    assert [len(block) for block in blocks] == [3, 3, 2, 3, 3, 2, 3, 1]
    np.testing.assert_array_equal(torch.cat(blocks).numpy(), ROWS)


def test_more_features_than_rows(tmp_path, images):
    """The dual kernel; lambda is of the eigenvalues that can be other than 0."""
    rows = np.random.default_rng(2).normal(size=(20, 64)).astype(np.float32)
    psi = np.random.default_rng(3).normal(size=64).astype(np.float32)
    np.save(tmp_path / "psi.npy", psi)
    index = import_rows(laid_out(tmp_path / NAME, rows), images, dim=64)
    answer = Session(index).attribute(Feature(tmp_path / "psi.npy"))
    exact = 20 * theirs(rows, psi[None], 64 / 20)
    np.testing.assert_allclose(answer.scores, exact, rtol=2e-4, atol=1e-4 * abs(exact).max())


def test_what_the_index_says_of_itself(places, images):
    index = Index.open(places["rows"])
    assert index.methods() == [
        *("concept-trak", "concept-trak-d", "unlearning", "mucs", "guda", "nda", "presence"),
        "random",
    ]
    recipe = index.recipe
    assert (recipe.train_path, recipe.train_delta, recipe.normalise) == (
        "inversion",
        "dps",
        "probe",
    )
    told = (recipe.parameters, recipe.inversion_guidance, recipe.projection)
    assert told == ("attn2", 7.5, "unknown")
    assert [sample.id for sample in index.samples] == [sample.id for sample in images.samples]
    assert index.residuals() is None and index.positions == range(20)
    said = headwater("info", places["rows"])
    assert said.code == 0 and "complete" in said.out and "3 of 3 whole" in said.out
    assert "12 by unknown" in said.out and f"({NAME})" in said.out


def test_half_precision_with_a_header(tmp_path, images):
    folder = tmp_path / "attn2-dsm-NFE10"
    folder.mkdir()
    np.save(folder / "train_grad-0.npy", ROWS.astype(np.float16))
    index = import_rows(folder, images)
    assert index.recipe.method == "concept-trak-a" and index.recipe.dim == 12
    np.testing.assert_array_equal(torch.cat(list(index.blocks())).numpy(), ROWS.astype(np.float16))


def test_the_command_line_from_rows_to_files(tmp_path, tiny_images):
    rows = laid_out(tmp_path / NAME)
    made = headwater("import", rows, tiny_images, "--dim", 12)
    assert (made.code, made.out) == (0, f"20 rows of 12 features in {rows}\n"), made.err
    assert "in that of the images" in made.err
    feature = tmp_path / "query/concept_grad.npy"
    feature.parent.mkdir()
    np.save(feature, PSI)
    Pillow.new("RGB", (8, 8), "red").save(feature.with_name("query.png"))
    ask = ("concept", rows, "--feature", feature, "--top", 3, "--json")
    answer = json.loads(headwater(*ask, "--out", tmp_path / "own").out)
    best = np.argsort(-theirs(ROWS, PSI))[:3]
    samples = load_dataset(tiny_images).samples
    assert [entry["id"] for entry in answer["results"][0]["top"]] == [samples[i].id for i in best]
    page = (tmp_path / "own/report.html").read_text()
    assert "the feature of concept_grad.npy" in page
    assert page.count("<img") == 1 + 3 + 3 + 3  # the query.png beside it, the first page, both ends
    assert not (tmp_path / "own/query.png").exists()
    said = headwater(*ask, "--layout", "concept-trak", "--out", tmp_path / "theirs")
    assert said.code == 0, said.err
    (folder,) = (tmp_path / "theirs").iterdir()
    lines = (folder / "topk-prompts-lambda_1.0e+00.txt").read_text().splitlines()
    assert [line.split("\t")[2] for line in lines[1:]] == [str(row) for row in best]
    np.testing.assert_array_equal(np.load(folder / "concept_grad.npy"), PSI)


def test_a_feature_of_our_own_is_asked_again(tmp_path, tiny_model, images):
    """What `--layout concept-trak` leaves gives the scores that it came from."""
    from headwater import Denoiser, build_index

    folder = tmp_path / "index"
    index = build_index(
        Denoiser.load(tiny_model), images, folder, method="concept-trak-unguided",
        timesteps=1, dim=16, self_check=False,
    )  # fmt: skip
    session = Session(index)
    first = session.attribute(Concept("a background", "background", draws=3))
    assert first.feature is not None
    np.save(tmp_path / "psi.npy", first.feature)
    again = session.attribute(Feature(tmp_path / "psi.npy"))
    np.testing.assert_allclose(again.scores, first.scores, rtol=1e-4, atol=1e-6)


# --- refused --------------------------------------------------------------------------------------


def test_the_model_is_not_asked(places, tmp_path, tiny_model):
    session = Session(places["index"])
    for query in (Concept("a red star", "star", context="bare"), Image("a star")):
        with pytest.raises(StoreError, match=r"projected by another program.*ask with --feature"):
            session.attribute(query)
    rows = places["rows"]
    result = headwater("concept", rows, "a star", "--concept", "star", "--context", "bare")
    assert_refused(result, "cannot be projected alike: ask with --feature")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", 1], "--seed does not go with --feature: leave it out"),
        (["--draws", 3], "--draws does not go with --feature"),
        (["--swap"], "--swap does not go with --feature"),
        (["--candidates", "clip:3"], "like no picture: leave --candidates out"),
        (["--concept", "star"], "--concept and --feature are different questions"),
    ],
)
def test_options_of_a_feature(places, tmp_path, options, said):
    command = ("concept", places["rows"], "--feature", places["psi"], "--out", tmp_path / "out")
    assert_refused(headwater(*command, *options), said)
    assert not (tmp_path / "out").exists()


def test_features_that_say_nothing(places, tmp_path):
    session, file = Session(places["index"]), tmp_path / "psi.npy"
    for array, error, said in (
        (np.ones(5, np.float32), StoreError, "rows of 5 features, not of 12"),
        (np.zeros(12, np.float32), NonFiniteError, "a row of zeros"),
        (np.full(12, np.nan, np.float32), NonFiniteError, "holds NaN"),
        (np.ones(12, int), StoreError, "holds int64 of 1 x 12: give rows of floats"),
        (np.array([{}]), StoreError, "cannot be read .Array can't be memory-mapped: Python"),
    ):
        np.save(file, array)
        with pytest.raises(error, match=said):
            session.attribute(Feature(file))
    with pytest.raises(StoreError, match=r"none\.npy is missing"):
        session.attribute(Feature(tmp_path / "none.npy"))


def cut(folder):
    with (folder / "train_grad-1.npy").open("rb+") as file:
        file.truncate(8 * 12 * 4 - 5)


def shorter(folder):
    with (folder / "train_grad-1.npy").open("rb+") as file:
        file.truncate(7 * 12 * 4)


def spoilt(value, row):
    def spoil(folder):
        map = np.memmap(folder / "train_grad-1.npy", np.float32, mode="r+", shape=(8, 12))
        map[row] = value
        map.flush()

    return spoil


DAMAGE = {
    "missing": (
        lambda folder: (folder / "train_grad-1.npy").unlink(),
        "train_grad-1.npy is missing in",
    ),
    "cut": (cut, "379 bytes are no whole number of rows of 12 float32"),
    "shorter": (shorter, "train_grad-1.npy holds 7 rows, and train_grad-0.npy 8"),
    "nan": (spoilt(np.nan, (2, 3)), "row 2 of .*train_grad-1.npy is NaN or infinite"),
    "never filled": (spoilt(0, slice(5, 8)), "row 5 of .*-1.npy is all zero, as where a run was"),
    "header": (
        lambda folder: (folder / "train_grad-1.npy").write_bytes(b"\x93NUMPY\x01\x00"),
        "train_grad-1.npy cannot be read",
    ),
    "none": (lambda folder: shutil.rmtree(folder), "there is no train_grad-0.npy in"),
    "an image too many": (
        lambda folder: (folder / "train_grad-2.npy").unlink(),
        r"holds 16 rows, and .* 20 images: give those that the rows are of \(--limit 16 takes",
    ),
    "twice": (
        lambda folder: (folder / "index.json").write_text("{}"),
        "is an index already: ask it, or remove its index.json",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_before_anything_is_written(tmp_path, images, name):
    damage, said = DAMAGE[name]
    folder = laid_out(tmp_path / NAME)
    damage(folder)
    with pytest.raises((StoreError, NonFiniteError), match=said):
        import_rows(folder, images, dim=12)
    assert not list(tmp_path.rglob("samples.parquet"))


def test_damage_after_the_import_is_found_by_the_checksum(tmp_path, images):
    folder = laid_out(tmp_path / NAME)
    np.save(tmp_path / "psi.npy", PSI)
    session = Session(import_rows(folder, images, dim=12))
    spoilt(1.0, (0, 0))(folder)
    with pytest.raises(StoreError, match=r"train_grad-1.npy is damaged \(its checksum differs"):
        session.attribute(Feature(tmp_path / "psi.npy"))


@pytest.mark.parametrize(
    ("name", "method", "error", "said"),
    [
        ("grads", None, MethodError, "does not say what its rows are.*give --method"),
        ("attn2-das-NFE10", None, MethodError, "does not say what its rows are"),
        (
            "attn2-dsm-NFE10-norm",
            None,
            MethodError,
            "no method has rows of noising/dsm, norm",
        ),
        (
            "grads",
            "clip-cosine",
            MethodError,
            "clip-cosine takes no --feature: these take one: concept-",
        ),
        ("grads", "x", MethodError, "there is no method 'x'"),
        (NAME, "trak", MismatchError, "says that its rows are of concept-trak, not of --method tr"),
    ],
)
def test_rows_of_no_method(tmp_path, images, name, method, error, said):
    with pytest.raises(error, match=said):
        import_rows(laid_out(tmp_path / name), images, dim=12, method=method)


@pytest.mark.parametrize("method", ["concept-trak", "concept-trak-unguided"])
def test_a_method_says_the_guidance_that_a_name_does_not(tmp_path, images, method):
    index = import_rows(laid_out(tmp_path / "grads"), images, dim=12, method=method)
    assert index.recipe.train == METHODS[method].train and index.methods()[0] == method


def test_a_method_for_another_name(tmp_path, images):
    index = import_rows(laid_out(tmp_path / "grads"), images, dim=12, method="concept-trak-b")
    np.save(tmp_path / "psi.npy", PSI)
    answer = Session(index).attribute(Feature(tmp_path / "psi.npy"))
    assert answer.method == "concept-trak-b" and answer.feature is not None
    write_answers(Session(index), [answer], tmp_path / "out", top=2)
    write_concept_trak(Session(index), [answer], tmp_path / "out", top=2)
    assert (tmp_path / "out/psi/scores.parquet").is_file()
    assert len(list((tmp_path / "out").glob("psi-*-target_psi-dps-train_gs_1.0-*"))) == 1
