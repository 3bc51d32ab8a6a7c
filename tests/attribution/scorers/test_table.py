"""What the tables name is there; a method or a question of one's own takes two entries of them.

Both toys are answered end to end, from the question to the report.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from support.command_line import headwater

from headwater import Concept, Denoiser, Image, Session, build_index, load_dataset, write_answers
from headwater.attribution.scorers.scoring import Scoring
from headwater.attribution.scorers.table import SCORERS
from headwater.attribution.scores import RULES, Scored, inverts_kernel
from headwater.errors import HeadwaterWarning, MethodError
from headwater.features.objectives import Objective
from headwater.features.probes import generation
from headwater.features.spec import Side
from headwater.methods.row import OWN, QUESTIONS, Method
from headwater.methods.table import METHODS
from headwater.queries.draws import trajectory_noise
from headwater.queries.query import Description, Drawer, Question
from headwater.queries.reward import Reward, Scorer
from headwater.report.wording import WORDING


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model, tiny_images) -> Session:
    denoiser, data = Denoiser.load(tiny_model), load_dataset(tiny_images).first(12)
    options = dict(method="concept-trak-unguided", timesteps=2, dim=32, parameters="attn2-kv")
    folder = tmp_path_factory.mktemp("tables") / "index"
    return Session(build_index(denoiser, data, folder, self_check=False, **options))


# --- the tables ---------------------------------------------------------------------------------


def test_every_row_of_methods_names_what_there_is_and_nothing_is_left_over():
    rows = METHODS.values()
    assert {method.scorer for method in rows} == set(SCORERS)
    assert {method.measure for method in rows} == set(WORDING)
    assert {kind for method in rows for kind in method.takes} == set(QUESTIONS)
    of_their_own = {"unlearning", "mucs", "guda", "nda", "presence", "metagradient", "random"}
    assert {method.rule for method in rows} == set(RULES) | of_their_own
    for method in rows:
        if method.rule in of_their_own:
            assert method.scorer == method.rule and not inverts_kernel(method.rule)


# --- a method -----------------------------------------------------------------------------------


def brightness(resources, method, query, options):
    """How bright a training image is, whatever is asked."""
    index = resources.index
    pictures = [np.asarray(index.image(row), np.float32) for row in range(len(index))]
    scores = torch.tensor([[picture.mean().item() for picture in pictures]])
    described = Description("how bright an image is", {"unit": "of 255"})
    return Scoring(dict.fromkeys(options.dampings, Scored(scores)), described, once="it is a fact")


@pytest.fixture
def toy_method(monkeypatch):
    """Two entries: a scorer by its name, and a row that names it."""
    takes = ("image", "concept")
    words = dict(scorer="brightness", measure="similarity")
    row = Method("toy", "nobody", None, None, "brightness", takes, **words)
    monkeypatch.setitem(SCORERS, "brightness", brightness)
    monkeypatch.setitem(METHODS, "toy", row)


@pytest.mark.parametrize("query", [Image("a star", steps=2), Concept("a star", "star")])
def test_a_toy_method_answers(session, toy_method, tmp_path, query):
    said = []
    answer = session.attribute(query, method="toy", damping=1.0, note=said.append)
    exact = [np.asarray(session.index.image(row), float).mean() for row in range(12)]
    np.testing.assert_allclose(answer.scores, exact, rtol=1e-5)
    assert answer.provenance["query"] == {"unit": "of 255", "draws": 1, "seed": 0}
    assert answer.unsure == "it is a fact" and answer.provenance["damping"] is None
    assert said == ["toy has no kernel, so --damping has no effect"]
    write_answers(session, [answer], tmp_path / "out", guidance=1.0, top=3)
    page = (tmp_path / "out/report.html").read_text()
    assert "Most similar" in page and "Proponents" not in page


def test_a_toy_method_is_a_method_of_the_command_line(session, toy_method, tmp_path):
    ask = ("image", session.index.path, "--prompt", "a star", "--method", "toy", "--top", 3)
    result = headwater(*ask, "--out", tmp_path, "--json")
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    best = session.attribute(Image("a star", steps=2), method="toy").top(3)
    assert [entry["id"] for entry in answer["results"][0]["top"]] == [one.id for one in best]
    rows = {row["name"]: row for row in json.loads(headwater("methods", "--json").out)}
    assert rows["toy"]["takes"] == ["image", "concept"] and rows["toy"]["rule"] == "brightness"
    reward = Reward("a star", Scorer("red", "red", lambda images: images[:, 0].mean((1, 2))))
    with pytest.raises(MethodError, match="toy cannot be asked for any score of images"):
        session.attribute(reward, method="toy")


# --- a question ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size(Question):
    """Which images taught the model to predict much noise in pictures of this prompt?"""

    prompt: str = "a house"
    draws: int = 2
    seed: int = 0

    kind, title = "size", "large predictions"

    def drawer(self, setting):
        return SizeDrawer(self, setting.side)


@dataclass(frozen=True)
class SizeDrawer:
    query: Size
    side: Side
    title: str = Size.title
    limit: int | None = None
    once: str = ""
    training_rows: Sequence[Collection[int]] = ()

    def describe(self, draws: int) -> Description:
        return Description(f"under the prompt, by {self.side.delta}", {"toy": True})

    def key(self, draws: range) -> Mapping[str, object]:
        return {"type": "size", "prompt": self.query.prompt, "seed": self.query.seed}

    def check(self, denoiser):
        return ["This is a toy"]

    def probes(self, extractor):
        return len(extractor.timesteps)

    def objectives(self, extractor, draws):
        denoiser = extractor.denoiser
        condition = denoiser.encode_captions([self.query.prompt] * len(draws))
        noise = trajectory_noise(denoiser, self.query.seed, draws)
        for probe in generation(denoiser, noise, condition, extractor.timesteps):
            yield Objective(probe.out, -probe.out.detach())


@pytest.fixture
def toy_question(monkeypatch):
    """Two entries: what it is called, and what methods of gradients ask of it."""
    monkeypatch.setitem(QUESTIONS, "size", "the size of predictions")
    monkeypatch.setitem(OWN, "size", Side("generation", "norm"))
    for name in ("concept-trak-unguided", "random"):  # made of these two tables when they were read
        row = METHODS[name]
        monkeypatch.setitem(METHODS, name, replace(row, takes=(*row.takes, "size")))


@pytest.mark.filterwarnings("ignore:This is a toy")  # said again of every answer
def test_a_toy_question_is_answered(session, toy_question, tmp_path):
    with pytest.warns(HeadwaterWarning, match="This is a toy"):
        answer = session.attribute(Size())
    assert answer.method == "concept-trak-unguided" and answer.certainty.draws == 2
    assert answer.asked == "under the prompt, by norm"
    assert answer.provenance["query"] == {"toy": True, "draws": 2, "seed": 0}
    assert answer.remarks == ("This is a toy",) and np.ptp(answer.scores) > 0
    again = session.attribute(Size())
    assert again.provenance["reused_query_gradient"] and again.remarks == answer.remarks
    np.testing.assert_array_equal(again.scores, answer.scores)
    assert not np.allclose(session.attribute(Size(seed=1)).scores, answer.scores)
    assert isinstance(SizeDrawer(Size(), OWN["size"]), Drawer)

    written = write_answers(session, [answer], tmp_path, guidance=1.0, top=3)
    (result,) = written["results"]
    assert (result["question"], result["title"]) == ("size", "large predictions")
    folder = tmp_path / "large-predictions"
    assert json.loads((folder / "result.json").read_text())["question"] == "size"
    page = (tmp_path / "report.html").read_text()
    assert "Asked under the prompt, by norm." in page and "This is a toy." in page


def test_a_toy_question_costs_and_is_listed_like_any_other(session, toy_question):
    row = METHODS["concept-trak-unguided"].facts()["queries"]["size"]
    assert row == {
        "guidance": "generation/norm",
        "draws": 32,
        "units per draw": 20,
        "units per image": 0,
        "cost": "32x20",
    }
    assert session.attribute(Size(), method="random").method == "random"
    with pytest.raises(MethodError, match="trak cannot be asked for the size of predictions"):
        session.attribute(Size(), method="trak")
