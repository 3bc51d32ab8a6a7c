"""Answers in the layout of the published code: names, files, and what they hold."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from headwater import Concept, Denoiser, Image, Session, build_index, load_dataset
from headwater.report.concept_trak import folders, write_concept_trak

PROMPT = "Pikachu in the style of Pablo Picasso"
TAIL = "-attn2-kv-dps-train_gs_1.0-test_gs_1.0-eta_0.0-seed_0-norm-ddim"
# Their slug, and the first ten digits of the prompt's SHA-1.
HEAD = "pikachu-in-the-style-of-pablo-picasso-cb769aecbe"


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, tiny_images) -> Session:
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(12)
    options: Any = dict(method="concept-trak-unguided", timesteps=2, dim=32, self_check=False)
    folder = tmp_path_factory.mktemp("layout") / "index"
    return Session(build_index(denoiser, data, folder, parameters="attn2-kv", **options))


@pytest.fixture(scope="module")
def answers(session):
    asked = (Concept(PROMPT, words, context="prompt", draws=2) for words in ("Pikachu", "Pablo"))
    return [session.attribute(query, damping=[0.1, 0.01, 0.0123]) for query in asked]


@pytest.fixture(scope="module")
def written(session, answers, tmp_path_factory):
    out = tmp_path_factory.mktemp("written")
    return out, write_concept_trak(session, answers, out, guidance=1.0, top=3)


def test_a_folder_for_each_target(answers, written):
    out, answer = written
    names = [f"{HEAD}-target_{target}{TAIL}" for target in ("pikachu", "pablo")]
    assert folders(answers) == names
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert answer["out"] == str(out) and len(answer["results"]) == 2
    lambdas = ("1.0e+00", "1.0e-01", "1.23e-01")
    assert sorted(path.name for path in (out / names[0]).iterdir()) == sorted(
        ["query.png", "query.safetensors", "concept_grad.npy", "metrics.json"]
        + [f"topk-lambda_{each}.jpg" for each in lambdas]
        + [f"topk-prompts-lambda_{each}.txt" for each in lambdas]
    )


def test_the_ranking_of_each_lambda(answers, written):
    folder = written[0] / folders(answers)[0]
    samples = answers[0].index.samples
    for lamb, damping in (("1.0e+00", 0.1), ("1.0e-01", 0.01)):
        best = np.argsort(-answers[0].sweep[damping])[:3]
        lines = [f"{i}\ttrain\t{row}\t{samples[row].caption}" for i, row in enumerate(best)]
        text = (folder / f"topk-prompts-lambda_{lamb}.txt").read_text()
        assert text.splitlines() == ["TopK", *lines]
        with Pillow.open(folder / f"topk-lambda_{lamb}.jpg") as sheet:
            assert sheet.format == "JPEG" and sheet.width > 3 * 112


def test_what_is_measured(answers, written):
    for answer, name in zip(answers, folders(answers), strict=True):
        metrics = json.loads((written[0] / name / "metrics.json").read_text())
        own = metrics.pop("headwater")
        assert metrics == {
            "mode": "free_query",
            "prompt": PROMPT,
            "negative_prompt": answer.query.complement,
            "seed": 0,
            "lamb_r_list": [1.0, 0.1, 0.123],
            "num_train": 12,
            "top_k": 3,
        }
        assert own["concept"] == answer.query.concept and own["method"] == "concept-trak-unguided"
        assert [entry["score"] for entry in own["top"]] == sorted(answer.scores)[:-4:-1]


def test_the_gradient_gives_the_scores(session, answers, written):
    """Rows, kernel and this file are all that a score is made of."""
    rows = torch.cat(list(session.index.blocks())).double().numpy()
    gram = rows.T @ rows / len(rows)
    for answer, name in zip(answers, folders(answers), strict=True):
        psi = np.load(written[0] / name / "concept_grad.npy", allow_pickle=False)
        assert psi.shape == (1, 32) and psi.dtype == np.float32
        lamb = 0.1 * np.trace(gram) / 12  # of 32 eigenvalues 12 can be other than 0
        exact = psi[0] @ np.linalg.solve(gram + lamb * np.eye(32), rows.T)
        np.testing.assert_allclose(answer.scores, exact, rtol=1e-3, atol=1e-3 * abs(exact).max())


def test_contexts_are_no_negative_prompt(session, tmp_path):
    """Asked over captions there is no one prompt; of a picture there is nothing negative."""
    words = session.attribute(Concept("a background", "background", draws=4))
    picture = session.attribute(Image("a star", steps=2))
    found = {}
    for answer in (words, picture):
        write_concept_trak(session, [answer], tmp_path, guidance=1.0, top=2)
        (name,) = folders([answer])
        found[answer.query.kind] = json.loads((tmp_path / name / "metrics.json").read_text())
        assert ("-target_background-" in name) == (answer is words)
        assert ("-test_gs_1.0-eta_0.0-" in name) == (answer is words)  # an inversion draws nothing
    assert len(found["concept"]["headwater"]["query"]["contexts"]) > 1
    assert found["concept"]["negative_prompt"] is None
    assert (found["image"]["prompt"], found["image"]["negative_prompt"]) == ("a star", "")


def test_a_method_without_a_kernel_has_no_lambda(session, tmp_path):
    answer = session.attribute(Concept(PROMPT, "Pikachu"), method="random")
    write_concept_trak(session, [answer, answer], tmp_path, guidance=1.0, top=2)
    first, second = folders([answer, answer])
    assert second == f"{first}-2" and (tmp_path / second / "topk-lambda_none.jpg").is_file()
    assert not (tmp_path / first / "concept_grad.npy").exists()
    assert json.loads((tmp_path / first / "metrics.json").read_text())["lamb_r_list"] == []
    assert math.isfinite(answer.scores.sum()) and answer.feature is None
