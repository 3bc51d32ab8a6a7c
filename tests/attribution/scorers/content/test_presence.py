"""Presence against its definition, by a plain loop in float64; what is refused; what is kept."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.command_line import headwater as command
from support.tiny import tiny_folder, tiny_unconditional

from headwater import Concept, Denoiser, Session, build_index, from_images, load_dataset
from headwater.attribution.scorers.content import caption_losses, presence
from headwater.attribution.scorers.content.presence import Losses
from headwater.attribution.scorers.content.versions import Kind, caption_of, versions
from headwater.data.training_set import Sample
from headwater.errors import HeadwaterWarning, MethodError, QueryError
from headwater.methods.table import METHODS
from headwater.models.sampling import seeded_noise
from headwater.queries.words.alternatives import mine_kinds
from headwater.queries.words.replacements import Insertions

CAPTIONS = ["a red star", "a blue star", "an orange star", "a star", "a red moon in the sky"]
COLOURS = ("red", "blue", "orange")


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("presence")
    pictures = load_dataset(tiny_folder(folder / "images", len(CAPTIONS)))
    data = from_images([pictures.image(row) for row in range(len(CAPTIONS))], CAPTIONS)
    denoiser = Denoiser.load(tiny_model, dtype=torch.float64)
    return Session(build_index(denoiser, data, folder / "index", method="pixel-dot"))


def plain_loss(session, row, caption, t):
    denoiser, index = session.denoiser, session.index
    x0 = denoiser.encode_images([index.training_set.image(row)])
    noise = seeded_noise(denoiser.latent_shape, f"0|{index.samples[row].id}|{t}|0").double()[None]
    a = denoiser.schedule.a[t]
    xt = a * x0 + (1 - a.square()).sqrt() * noise
    with torch.no_grad():
        eps = denoiser.network(xt, t, **denoiser.encode_captions([caption]).tensors).sample
    return (eps - noise).square().mean().item()


def mean_loss(session, row, caption):
    return np.mean([plain_loss(session, row, caption, t) for t in (299, 599, 899)])


# --- the number -----------------------------------------------------------------------------------


def test_presence_is_the_gain_over_the_best_other_value(session):
    """By the definition, with a caption c- that falls out again."""
    answer = session.attribute(Concept("a red star", "red"), method="presence")
    templates = ["a {} star", "a {} star", "a {} star", "a {} star", "a {} moon in the sky"]
    for row, template in enumerate(templates):
        gains = {
            colour: mean_loss(session, row, "a star")
            - mean_loss(session, row, template.format(colour).replace("a orange", "an orange"))
            for colour in COLOURS
        }
        exact = gains["red"] - max(gains["blue"], gains["orange"])
        assert answer.scores[row] == pytest.approx(exact, rel=1e-4, abs=1e-7)
    assert answer.provenance["query"]["alternatives"] == ["blue", "orange"]
    assert "against blue, orange (words in the same place of captions)" in answer.asked
    assert answer.certainty.draws == len(presence.SHARES) and not answer.remarks


def test_without_alternatives_it_is_the_plain_gain_and_says_so(session):
    with pytest.warns(HeadwaterWarning, match="'red' has no alternatives here"):
        answer = session.attribute(Concept("a red star", "red", alternatives=()), method="presence")
    exact = [
        mean_loss(session, 0, "a star") - mean_loss(session, 0, "a red star"),
        mean_loss(session, 3, "a star") - mean_loss(session, 3, "a red star"),
        mean_loss(session, 4, "a moon in the sky") - mean_loss(session, 4, "a red moon in the sky"),
    ]
    np.testing.assert_allclose(answer.scores[[0, 3, 4]], exact, rtol=1e-4, atol=1e-7)
    assert answer.remarks and answer.provenance["query"]["alternatives"] == []


def test_given_alternatives_are_those_that_count(session):
    """Others that captions have in the same place say where that is, and are no rivals."""
    query = Concept("a red star", "red", alternatives=("green",))
    answer = session.attribute(query, method="presence")
    assert answer.provenance["query"]["alternatives"] == ["green"]
    exact = mean_loss(session, 1, "a green star") - mean_loss(session, 1, "a red star")
    assert answer.scores[1] == pytest.approx(exact, rel=1e-4, abs=1e-7)


def test_margins_choose_one_rival_for_all_timesteps_and_none_that_is_named():
    losses = torch.tensor([[[1.0, 3.0, 2.0]] * 2, [[1.0, 3.0, 9.0]] * 2])  # [t=2, n=2, v=3]
    named = torch.tensor([[True, False, False], [True, True, False]])
    margins = Losses(("red", "blue", "pink"), losses, named).margins("red")
    assert margins.T.tolist() == [[2.0, 2.0], [1.0, 8.0]]  # blue, by the mean; it is named: pink
    alone = Losses(("red", "blue"), losses[..., :2], torch.tensor([[True, True]] * 2))
    assert alone.margins("red").tolist() == [[2.0, 2.0]] * 2


def test_a_value_that_the_model_sees_nowhere_is_no_rival():
    losses = torch.tensor([[[1.0, 3.0, 1.5]] * 3 + [[4.0, 1.0, 2.0]] * 3])  # "shape" helps anywhere
    named = torch.tensor([[False, False, True]] * 3 + [[False, True, False]] * 3)
    seen = Losses(("star", "moon", "shape"), losses, named)
    assert seen.told_apart().tolist() == [True, True, False]
    assert seen.margins("star")[0].tolist() == [2.0] * 3 + [-3.0] * 3
    assert seen.margins("moon")[0].tolist() == [-2.0] * 3 + [3.0] * 3


def test_a_word_for_anything_of_its_kind_is_no_rival():
    """The next best wherever another value is best, and still seen where it is named."""
    values = ("star", "moon", "fish", "shape")
    losses = torch.full((1, 8, 4), 9.0)
    losses[..., 3] = 2.0
    for row in range(6):
        losses[:, row, row // 2] = 1.0
    losses[:, 6:, 3] = 1.0
    named = torch.eye(4).bool().repeat_interleave(2, 0)
    seen = Losses(values, losses, named)
    assert seen.told_apart().tolist() == [True, True, True, False]
    assert seen.margins("star")[0].tolist() == [8.0] * 2 + [-8.0] * 4 + [0.0] * 2
    three = Losses(values[1:], losses[..., 1:], named[:, 1:])  # too few to say so
    assert three.told_apart().all()


@pytest.mark.parametrize(
    ("caption", "word", "exact"),
    [
        ("a red star", "red", ["a red star", "a blue star", "an orange star"]),
        ("a red star", "blue", ["a red star", "a blue star", "an orange star"]),
        ("a star", "red", ["a red star", "a blue star", "an orange star"]),
        # of several the word's own place counts
        ("a red, blue star", "blue", ["a red, blue star"] * 2 + ["a red, orange star"]),
        ("a red, blue star", "orange", ["a red, blue star"] * 2 + ["an orange, blue star"]),
    ],
)
def test_versions_of_a_caption(caption, word, exact):
    named = [colour for colour in COLOURS if colour in caption]
    insert = Insertions(CAPTIONS, COLOURS)
    assert versions(caption, COLOURS, word, named, insert) == exact


def test_of_several_captions_the_one_that_names_a_value():
    sample = Sample("id", "a star", "", ("a star", "a red star", "a blue star"))
    assert caption_of(sample, COLOURS) == "a red star"
    assert caption_of(sample, ("moon",)) == "a star"


# --- kinds ----------------------------------------------------------------------------------------


def test_kinds_are_given_mined_or_none():
    query, captions = Concept("a red star", "red"), SimpleNamespace(kinds=mine_kinds(CAPTIONS))
    assert presence.kind_of(captions, query).others("red") == ["blue", "orange"]
    assert presence.kind_of(SimpleNamespace(kinds=[]), query).values == ("red",)
    given = Concept("a red star", "red", alternatives=("pink", "cyan"))
    assert presence.kind_of(captions, given) == Kind(
        ("cyan", "pink", "red"), "given", places=("blue", "orange")
    )


def test_a_second_concept_of_a_kind_costs_nothing_new(session, monkeypatch):
    shutil.rmtree(session.queries, ignore_errors=True)
    session.attribute(Concept("a red star", "red"), method="presence")
    monkeypatch.setattr(caption_losses, "_losses", None)  # what is called then fails
    answer = session.attribute(Concept("a blue star", "blue"), method="presence")
    assert np.ptp(answer.scores) > 0


def test_it_costs_what_the_table_says(session, monkeypatch):
    shutil.rmtree(session.queries, ignore_errors=True)
    counted, network = [], type(session.denoiser.network)
    forward = network.forward

    def counting(self, xt, *args, **given):
        counted.append(len(xt))
        return forward(self, xt, *args, **given)

    monkeypatch.setattr(network, "forward", counting)
    monkeypatch.setattr(
        caption_losses.BatchSize, "_find", lambda self, one: setattr(self, "_unknown", False)
    )
    session.attribute(Concept("a red star", "red"), method="presence")
    method = METHODS["presence"]
    assert sum(counted) == method.cost("concept").value * len(CAPTIONS) * len(COLOURS)
    assert method.facts()["queries"]["concept"]["cost"] == "3nv" and method.slow


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alternatives", "says"),
    [
        (("red",), "'red' is no alternative to 'red'"),
        (("blue", " "), "' ' is no alternative to 'red'"),
        ("blue", "are no list of texts"),
        ((1,), "are no list of texts"),
    ],
)
def test_alternatives_that_are_none_are_refused(alternatives, says):
    with pytest.raises(QueryError, match=says):
        Concept("a red star", "red", alternatives=alternatives)


def test_what_makes_no_sense_is_refused(session, tmp_path):
    with pytest.raises(MethodError, match=r"presence .*leave out --minus, --base"):
        session.attribute(Concept("a red star", "red", swap=True), method="presence")
    with pytest.raises(MethodError, match="random tells a concept from no alternatives"):
        session.attribute(Concept("a red star", "red", alternatives=("blue",)), method="random")
    data = session.index.training_set
    denoiser = Denoiser.load(tiny_unconditional(tmp_path / "ddpm"))
    index = build_index(denoiser, data, tmp_path / "index", method="pixel-dot")
    with pytest.raises(MethodError, match="reads no prompts"):
        index.attribute(Concept("a red star", "red"), method="presence")


def test_other_draws_are_said_to_have_no_effect(session):
    said = []
    session.attribute(Concept("a red star", "red", draws=8), method="presence", note=said.append)
    assert said == ["presence draws once at 3 timesteps: --draws has no effect"]


# --- as candidates, and from the command line -----------------------------------------------------


def test_candidates_are_those_with_the_highest_presence(session):
    query = Concept("a red star", "red", alternatives=("blue", "orange"))
    seen = session.attribute(query, method="presence").scores
    answer = session.attribute(query, method="random", candidates="presence:2")
    assert sorted(answer.among) == sorted(np.argsort(-seen)[:2])
    assert answer.provenance["candidates"] == "presence:2"


def test_asked_from_the_command_line(tmp_path, tiny_model, tiny_images):
    index = tmp_path / "index"
    assert command("index", tiny_model, tiny_images, index, "--method", "pixel-dot").code == 0
    ask = ("concept", index, "a red star", "--concept", "red", "--method", "presence", "--top", 3)
    result = command(*ask, "--alternatives", "blue, pink", "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert "against blue, pink (given)" in result.out
    page = (tmp_path / "out/report.html").read_text()
    assert "It is content, not influence" in page and "Proponents" not in page
    assert "Which training images show the model" in page and "taught the model “" not in page
    result = command(*ask, "--alternatives", "red", "--out", tmp_path / "out")
    assert result.code == 2 and "is no alternative to 'red'" in result.err
    assert result.err.count("\n") == 1
