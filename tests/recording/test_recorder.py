"""What a loop of one's own must say is recorded; what cannot be derived is refused at once."""

import copy
import json

import pytest
import torch
from support.trainings import Toy, toy_batches, train_toy
from torch import nn

from headwater import Recorder
from headwater.errors import MismatchError, ParameterError, StoreError
from headwater.recording.metagradient import metagradient
from headwater.recording.recording import read_recording, write_facts
from headwater.recording.replay import Replay


def begun(folder, network=None, **options):
    """(network, optimizer, recorder) before the first step."""
    network = network or Toy()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, optimizer, Recorder(folder, network, optimizer, **options)


def called(network, batch):
    images, (sample, timesteps, words), target = batch
    return images, network(sample, timesteps, words).sample, target


def test_steps_hold_what_the_network_was_given(tmp_path):
    batches = list(toy_batches(4, accumulated=2))
    train_toy(batches, tmp_path / "run", lr=0.1, weights=(1.0, 2.0, 3.0))
    recording = read_recording(tmp_path / "run")
    for number, step in enumerate(batches):
        found = recording.step(number)
        assert len(found.batches) == 2
        for (images, (sample, timesteps, words), target), shown in zip(
            step, found.batches, strict=True
        ):
            assert list(shown.ids) == images
            assert torch.equal(shown.args[0], sample) and torch.equal(shown.args[1], timesteps)
            assert torch.equal(shown.kwargs["encoder_hidden_states"], words)
            assert torch.equal(shown.target, target) and shown.weights.tolist() == [1, 2, 3]
        rates = [group["lr"] for group in found.options]
        assert rates == pytest.approx([0.1 / (1 + number)] * 3)
    assert recording.names[0] == "first.weight" and "unused.weight" not in recording.names
    assert sum(recording.sizes) == sum(recording.groups) and recording.groups[-1] == 0


def test_a_caption_is_written_once(tmp_path):
    """Rows by content: five captions, however often they are shown."""
    from safetensors import safe_open

    train_toy(list(toy_batches(12)), tmp_path / "run", lr=0.1)
    rows = 0
    for path in (tmp_path / "run" / "steps").glob("*"):
        with safe_open(path, "pt") as file:
            rows += sum(file.get_tensor(name).shape == (2, 3) for name in file.keys())
    assert rows == 5


def test_a_step_that_a_scaler_skips_is_not_recorded(tmp_path):
    """Gradients were dropped before the optimizer's step; the batch after it stands alone."""
    network, optimizer, recorder = begun(tmp_path / "run")
    first, second = [step[0] for step in toy_batches(2)]
    images, out, target = called(network, first)
    recorder.batch(images, target)
    out.sum().backward()
    optimizer.zero_grad()
    images, out, target = called(network, second)
    recorder.batch(images, target)
    (out - target).square().mean().backward()
    optimizer.step()
    recorder.close()
    (batch,) = read_recording(tmp_path / "run").step(0).batches
    assert list(batch.ids) == second[0] and torch.equal(batch.args[0], second[1][0])


def test_a_training_goes_on_recording(tmp_path):
    """From the checkpoint of its trainer, behind which it had been recorded."""
    steps = list(toy_batches(8))
    network = Toy()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)

    def go(first, last, recorder):
        schedule = [0.02 / (1 + step) for step in range(first, last)]
        for (batch,), rate in zip(steps[first:last], schedule, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            images, out, target = called(network, batch)
            recorder.batch(images, target)
            (out - target).square().flatten(1).mean(1).mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    begun = Recorder(tmp_path / "two", network, optimizer, every=3)
    go(0, 4, begun)
    kept = [copy.deepcopy(each.state_dict()) for each in (network, optimizer)]
    go(4, 7, begun)  # and is killed
    begun._unhook()
    for written in ("run.json", "steps/000005.safetensors", "states/000006.safetensors"):
        (tmp_path / "two" / f"{written}.0123456789ab.part").write_bytes(b"half")
    for each, state in zip((network, optimizer), kept, strict=True):
        each.load_state_dict(state)
    with Recorder(tmp_path / "two", network, optimizer, every=3, first_step=4) as gone_on:
        go(4, 8, gone_on)
    assert list((tmp_path / "two").rglob("*.part")) == []
    recording = read_recording(tmp_path / "two")
    assert (recording.steps, recording.kept) == (8, [0, 3, 4, 6, 8])
    ends = torch.randn(1, sum(recording.sizes), dtype=torch.float64)
    found = metagradient(Replay(recording, Toy()), ends)
    assert max(found.gradient_error, found.drift) < 1e-12 and found.steps == 8
    with pytest.raises(StoreError, match=r"000008.* is missing .* goes on at step 9"):
        Recorder(tmp_path / "two", network, optimizer, first_step=9)
    network.first.requires_grad_(False)
    other = Recorder(tmp_path / "two", network, optimizer, first_step=4)
    with pytest.raises(ParameterError, match="recorded of other parameters than learn now"):
        go(4, 5, other)


def test_calls_without_a_graph_are_no_training(tmp_path):
    network, optimizer, recorder = begun(tmp_path / "run")
    (batch,), (other,) = toy_batches(2)
    images, out, target = called(network, batch)
    with torch.no_grad():
        called(network, other)
    recorder.batch(images, target)
    (out - target).square().mean().backward()
    optimizer.step()
    recorder.close()
    called(network, other)  # no hook is left
    assert torch.equal(read_recording(tmp_path / "run").step(0).batches[0].args[0], batch[1][0])


def test_names_of_wrappers_and_adapters_are_no_difference(tmp_path):
    """What accelerate and torch.compile put before a name, and PEFT's name of an adapter."""
    from headwater.recording.replay import _plain

    name = "down.0.to_q.lora_A.weight"
    for given in (
        "down.0.to_q.lora_A.default.weight",
        "module.down.0.to_q.lora_A.lora.weight",
        "base_model.model.down.0.to_q.lora_A.lora2.weight",
        "_orig_mod.module.down.0.to_q.lora_A.default_0.weight",
    ):
        assert _plain(given) == name
    assert _plain("conv.weight") == "conv.weight"


# --- refused --------------------------------------------------------------------------------------


def test_parameters_of_another_network_are_refused(tmp_path):
    network = Toy()
    optimizer = torch.optim.SGD([*network.parameters(), *Toy().parameters()], lr=0.1)
    with pytest.raises(ParameterError, match="8 of the optimizer's parameters are not of the net"):
        Recorder(tmp_path / "run", network, optimizer)


def test_dropout_is_refused_where_it_drops(tmp_path):
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    with pytest.raises(ParameterError, match=r"1 drops numbers at random \(p=0.1\)"):
        begun(tmp_path / "run", network)
    begun(tmp_path / "run", network.eval())


def test_a_folder_in_use_and_no_steps_are_refused(tmp_path):
    (tmp_path / "note").write_text("mine")
    with pytest.raises(StoreError, match="holds something: name an empty or a new folder"):
        begun(tmp_path)
    with pytest.raises(ParameterError, match="every=0 must be"):
        begun(tmp_path / "run", every=0)


def test_a_batch_that_does_not_fit_is_refused(tmp_path):
    network, _, recorder = begun(tmp_path / "run")
    with pytest.raises(ParameterError, match="the network was not called"):
        recorder.batch([0, 1, 2], torch.zeros(3, 1, 4, 4))
    ((batch,),) = toy_batches(1)
    images, _, target = called(network, batch)
    with pytest.raises(ParameterError, match=r"2 ids, a target of \(3, 1, 4, 4\): give one"):
        recorder.batch(images[:2], target)
    with pytest.raises(ParameterError, match=r"and weights of \(2,\)"):
        recorder.batch(images, target, torch.ones(2))
    _, (sample, timesteps, words), _ = batch
    network(sample, timesteps, words, more={"a": object()})
    with pytest.raises(ParameterError, match="called with a object, which cannot be recorded"):
        recorder.batch(images, target)


def test_a_step_without_a_batch_is_refused(tmp_path):
    network, optimizer, _ = begun(tmp_path / "run")
    ((batch,),) = toy_batches(1)
    called(network, batch)[1].sum().backward()
    with pytest.raises(ParameterError, match="a step that no batch was recorded of"):
        optimizer.step()


def test_a_parameter_that_loses_its_gradient_is_refused(tmp_path):
    network, optimizer, recorder = begun(tmp_path / "run")
    for number, (batch,) in enumerate(toy_batches(2)):
        images, out, target = called(network, batch)
        recorder.batch(images, target)
        (out - target).square().mean().backward()
        if number == 1:
            network.words.bias.grad = None
            with pytest.raises(ParameterError, match=r"words\.bias had a gradient at the first"):
                optimizer.step()
            return
        optimizer.step()
        optimizer.zero_grad()


# --- read again -----------------------------------------------------------------------------------


def test_a_recording_without_an_end_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no recorded training"):
        read_recording(tmp_path)
    network, optimizer, recorder = begun(tmp_path / "run")
    ((batch,),) = toy_batches(1)
    with pytest.raises(KeyboardInterrupt), recorder:
        images, out, target = called(network, batch)
        recorder.batch(images, target)
        out.sum().backward()
        optimizer.step()
        raise KeyboardInterrupt
    with pytest.raises(StoreError, match="did not come to its end"):
        read_recording(tmp_path / "run")


@pytest.mark.parametrize("file", ["steps/000001", "states/000003", "states/000000"])
def test_damage_gives_no_other_numbers(tmp_path, file):
    """A byte changed anywhere in a file, or a file that is not there."""
    train_toy(list(toy_batches(5)), tmp_path / "run", lr=0.1)
    path = tmp_path / "run" / f"{file}.safetensors"
    whole, true = path.read_bytes(), everything(tmp_path / "run")
    refused = 0
    for place in range(8, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = everything(tmp_path / "run")
        except StoreError as error:
            assert "missing or damaged" in str(error)
            refused += 1
        else:  # of the file's own checksum, where rows have theirs
            assert all(map(torch.equal, found, true))
    assert refused > 40
    path.unlink()
    with pytest.raises(StoreError, match=r"missing or damaged|lacks its first or last state"):
        everything(tmp_path / "run")


def everything(folder):
    """All numbers of it."""
    recording = read_recording(folder)
    assert recording.digest
    found = []
    for number in range(recording.steps):
        (batch,) = recording.step(number).batches
        found += [torch.tensor(batch.ids), *batch.args, *batch.kwargs.values(), batch.target]
    for number in recording.kept:
        kept = recording.state(number)
        found += [kept[0].weights, *kept[0].moments, kept[1]]
    if recording.kept != [0, 3, 5]:
        raise StoreError("missing or damaged")
    return found


def test_damage_of_the_facts_is_found(tmp_path):
    train_toy(list(toy_batches(5)), tmp_path / "run", lr=0.1)
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "max_grad_norm": 1.0}))
    with pytest.raises(StoreError, match="missing or damaged"):
        read_recording(tmp_path / "run")
    path.write_text("{")
    with pytest.raises(StoreError, match="is no JSON"):
        read_recording(tmp_path / "run")
    path.write_text(json.dumps({**facts, "format_version": 9}))
    with pytest.raises(StoreError, match="recorded in another format"):
        read_recording(tmp_path / "run")


def test_a_loss_that_was_not_told_is_found(tmp_path):
    """Weighed, clipped: the recorded gradient is not the one that comes out."""
    batches = list(toy_batches(4))
    train_toy(batches, tmp_path / "run", lr=0.1, norm=0.01)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    del facts["sha256"]
    write_facts(tmp_path / "run", facts | {"max_grad_norm": None})
    replay = Replay(read_recording(tmp_path / "run"), Toy())
    ends = torch.ones(1, sum(replay.recording.sizes), dtype=torch.float64)
    with pytest.raises(MismatchError, match=r"the gradient of step 3 .* comes out \d+% otherwise"):
        metagradient(replay, ends)


def test_another_network_is_refused(tmp_path):
    train_toy(list(toy_batches(4)), tmp_path / "run", lr=0.1)
    replay = Replay(read_recording(tmp_path / "run"), nn.Linear(2, 2))
    with pytest.raises(MismatchError, match=r"recorded first\.weight of 36 numbers, .* no such"):
        _ = replay.parameters
