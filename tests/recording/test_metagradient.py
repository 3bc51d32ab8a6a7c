"""The derivative of a recorded training is that of trainings with an image's weight changed."""

import pytest
import torch
from support.trainings import IMAGES, Toy, toy_batches, train_toy

from headwater.recording.metagradient import GROWTH, metagradient
from headwater.recording.recording import read_recording
from headwater.recording.replay import Replay

OPTIONS = [
    dict(optimizer=torch.optim.AdamW, lr=0.02),
    dict(optimizer=torch.optim.AdamW, lr=0.02, norm=0.1, weights=(0.5, 1.0, 2.0)),
    dict(optimizer=torch.optim.Adam, lr=0.02, norm=0.1),
    dict(optimizer=torch.optim.SGD, lr=0.2, momentum=0.9, nesterov=True, norm=0.1),
]


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_what_trainings_with_another_weight_come_to(tmp_path, options, accumulated):
    """Central differences in float64, of every image: torch's own optimizers, not ours."""
    batches = list(toy_batches(8, accumulated))
    end = train_toy(batches, tmp_path / "run", **options)
    outputs = torch.randn(2, len(end), dtype=torch.float64)
    found = metagradient(Replay(read_recording(tmp_path / "run"), Toy()), outputs)
    assert found.steps == 8
    for image in range(IMAGES):
        change = 1e-5 * torch.eye(IMAGES, dtype=torch.float64)[image]
        more, less = (train_toy(batches, counts=1 + by, **options) for by in (change, -change))
        true = outputs @ (more - less) / 2e-5
        torch.testing.assert_close(found.by_image[image], true, rtol=1e-5, atol=1e-8)
        assert true.abs().max() > 1e-4


def test_what_is_made_again_is_what_was_recorded(tmp_path):
    batches = list(toy_batches(8))
    end = train_toy(batches, tmp_path / "run", lr=0.02)
    recording = read_recording(tmp_path / "run")
    found = metagradient(Replay(recording, Toy()), torch.ones(1, len(end), dtype=torch.float64))
    assert max(found.gradient_error, found.drift) < 1e-12
    assert recording.kept == [0, 3, 6, 8]


def test_what_grows_beyond_a_bound_is_left_out(tmp_path):
    """A learning rate that falls from far too large: from the end back to where it does."""
    batches = list(toy_batches(8))
    end = train_toy(batches, tmp_path / "run", optimizer=torch.optim.SGD, lr=8.0)
    outputs = torch.randn(1, len(end), dtype=torch.float64)
    replay = Replay(read_recording(tmp_path / "run"), Toy())
    whole = metagradient(replay, outputs, growth=1e30)
    assert whole.steps == len(whole.growth) == 8
    assert whole.growth[0] == pytest.approx(1)
    part = metagradient(replay, outputs)
    assert part.steps == next(step for step, grown in enumerate(whole.growth) if grown > GROWTH)
    assert part.growth == whole.growth[: part.steps]
    assert 0 < part.steps < 8
    assert set(part.by_image) == {id for (batch,) in batches[-part.steps :] for id in batch[0]}


def test_progress_is_told_step_by_step(tmp_path):
    train_toy(list(toy_batches(7)), tmp_path / "run", lr=0.02)
    recording, told = read_recording(tmp_path / "run"), []
    ends = torch.ones(1, sum(recording.sizes), dtype=torch.float64)
    metagradient(Replay(recording, Toy()), ends, told.append)
    assert told == [1, 3, 3]
