"""An audit of captions: who is doubted, who says too little, and who is left alone."""

import pytest
import torch
from support.tiny import tiny_folder

from headwater import Denoiser, Session, build_index, from_images, load_dataset
from headwater.attribution.scorers.content.presence import Losses
from headwater.data.training_set import Sample
from headwater.errors import QueryError
from headwater.quick import audit as module
from headwater.quick.audit import audit

VALUES = ("red", "blue", "shape")
# What the caption names, and the loss under each value.
IMAGES = (
    ("red", (1.0, 3.0, 4.0)),  # agreed, by 2
    ("red", (1.0, 5.0, 6.0)),  # agreed, by 4
    ("blue", (4.0, 1.0, 2.0)),  # agreed, by 1
    ("blue", (3.0, 1.0, 9.0)),  # agreed, by 2
    ("red", (4.0, 1.0, 2.0)),  # doubted: blue, by 3
    ("", (1.0, 3.0, 2.0)),  # red, by 2
    ("", (1.0, 1.5, 2.0)),  # red, by 0.5: not sure
    ("shape", (3.0, 1.0, 2.0)),  # blue, by 2: "shape" is never seen
    ("red blue", (9.0, 5.0, 1.0)),  # several
)
IMAGES += (("shape", (1.0, 1.1, 2.0)),) * 2  # not sure, and enough to say that it is not seen
SAMPLES = [Sample(f"image-{row}", said, "") for row, (said, _) in enumerate(IMAGES)]


def losses():
    numbers = torch.tensor([own for _, own in IMAGES])
    named = torch.tensor([[value in said for value in VALUES] for said, _ in IMAGES])
    # the mean over two timesteps is what counts
    return Losses(VALUES, torch.stack([numbers - 0.5, numbers + 0.5]), named)


def test_findings_are_those_of_the_margins():
    found = module._audited(SAMPLES, losses())
    assert (found.values, found.unseen, found.agreed) == (("red", "blue"), ("shape",), 4)
    (wrong,) = found.wrong
    assert (wrong.row, wrong.says, wrong.sees) == (4, "red", "blue")
    assert wrong.strength == pytest.approx(3 / 2)  # the median of 2, 4, 2 (without shape: 3), 2
    unsaid = {each.row: (each.says, each.sees, each.strength) for each in found.unsaid}
    assert unsaid == {5: ("", "red", pytest.approx(1.0)), 7: ("shape", "blue", pytest.approx(1.0))}
    assert wrong.words == "red -> blue" and found.unsaid[0].words == "(nothing) -> red"


def test_a_kind_of_which_the_model_sees_nothing_finds_nothing():
    named = torch.tensor([[True, False], [False, True]] * 3)
    blind = Losses(("red", "blue"), torch.tensor([[[2.0, 1.0], [1.0, 2.0]] * 3]), named)
    found = module._audited(SAMPLES[:6], blind)
    assert found.unseen == ("red", "blue") and not found.wrong and not found.unsaid


@pytest.fixture(scope="module")
def session(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("audit")
    pictures = load_dataset(tiny_folder(folder / "images", 6))
    captions = ["a red star", "a blue star", "a star", "a red moon", "a moon", "a blue moon"]
    data = from_images([pictures.image(row) for row in range(6)], captions)
    denoiser = Denoiser.load(tiny_model)
    return Session(build_index(denoiser, data, folder / "index", method="pixel-dot"))


def test_every_kind_is_looked_at_and_the_strongest_comes_first(session):
    said = []
    found = audit(session, note=said.append)
    assert sorted(map(sorted, found.provenance["kinds"])) == [["blue", "red"], ["moon", "star"]]
    assert said == ["4 values of 2 kind(s): 72 forward passes, if none is kept"]
    strengths = [each.strength for each in found.unsaid]
    assert strengths == sorted(strengths, reverse=True)


def test_kinds_may_be_given_and_are_few(session, monkeypatch):
    monkeypatch.setattr(module, "MOST_KINDS", 1)
    found = audit(session, [["red", "star"], ["star", "moon"]])
    assert found.provenance["kinds"] == [["red", "star"]]
    assert any("1 captions name several values" in remark for remark in found.remarks)
    assert "Of 2 kinds of words the 1 most frequent were looked at" in found.remarks


@pytest.mark.parametrize("kind", [["red"], ["red", "red"], ["red", " "]])
def test_a_kind_of_one_value_is_refused(session, kind):
    with pytest.raises(QueryError, match="names fewer than two values"):
        audit(session, [kind])


def test_captions_without_kinds_are_refused(session, tmp_path):
    data = session.index.training_set
    same = from_images([data.image(row) for row in range(3)], ["a red star"] * 3)
    index = build_index(session.denoiser, same, tmp_path / "index", method="pixel-dot")
    with pytest.raises(QueryError, match="no two words in each other's place"):
        audit(Session(index))
