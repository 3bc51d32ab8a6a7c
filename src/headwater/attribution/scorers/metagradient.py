"""The metagradient: what each image did to the model in its recorded training.

MAGIC (Ilyas & Engstrom 2025). The gradient of the question at the end of the training is taken back
through every step, to what each image counted in the loss (`recording/metagradient.py`). It says
what this training would have come to without an image; another seed's is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.resources import Resources
from headwater.attribution.scorers.exact import ONCE, mean_row
from headwater.attribution.scorers.gradient import setting_of
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scores import Scored
from headwater.errors import MethodError, MismatchError, NonFiniteError
from headwater.features.extractor import Extractor
from headwater.features.spec import DRAWS, TIMESTEPS
from headwater.gradients.blocks import forms_as_they_are
from headwater.gradients.layers import parameters_of, size
from headwater.gradients.projection import project
from headwater.index.machines import without_projection
from headwater.methods.row import Method
from headwater.models.patches import frozen
from headwater.queries.query import Description, Drawer, Question
from headwater.recording.metagradient import GROWTH, metagradient
from headwater.recording.recording import Recording, read_recording
from headwater.recording.replay import Replay
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache

# By how much a model's numbers may differ from those that its training ended at; files of adapters
# are often in half precision.
ROUNDED = 0.01


def score(
    resources: Resources, method: Method, query: Question, options: ScoringOptions
) -> Scoring:
    """Minus the derivative of the question's loss by each image's weight in the training.

    That loss is what rows are gradients of: of a picture half the sum of its squared errors, the
    mean over timesteps and draws. A weight of 1 is what the image had.

    Raises:
        StoreError: the recording is missing or damaged.
        MismatchError: it is not of this model and these images, or comes out otherwise.
        MethodError: what was trained is in no layer whose gradients are known.
        NonFiniteError: the question's gradient by what was trained is zero, or no number.
    """
    assert resources.index.run is not None, "an index without it is refused"
    recording = read_recording(resources.index.run)
    timesteps = resources.index.recipe.timesteps
    if not timesteps:  # its rows are no gradients
        timesteps = tuple(resources.denoiser.schedule.evenly_spaced(TIMESTEPS))
    drawer = query.drawer(replace(setting_of(resources, method, query), timesteps=timesteps))
    draws = drawer.limit or query.draws or DRAWS
    facts = {
        "metagradient": 1,
        "seed": resources.index.recipe.seed,
        "dtype": resources.index.manifest.model["dtype"],
        "run": recording.digest,
        "growth": GROWTH,
        "model": resources.index.manifest.model["fingerprint"],
        "timesteps": list(timesteps),
        "question": {**drawer.key(range(draws)), "draws": draws},
    }

    def compute() -> cache.Computed:
        return derivative(resources, recording, drawer, draws, timesteps)

    kept = cache.remember(resources.queries, facts, compute, fresh=options.fresh)
    said = kept.note
    by_image = dict(zip(said["ids"], kept.tensors["derivative"], strict=True))
    scores, strange = in_order_of(resources, by_image)
    words, more = drawer.describe(draws)
    made = {name: value for name, value in said.items() if name not in ("ids", "remarks")}
    more = {**more, "recorded training": {"digest": recording.digest, **made}}
    return Scoring(
        dict.fromkeys(options.dampings, Scored(scores[None])),
        Description(f"{words}, through {_steps_words(said)}", more),
        draws,
        ONCE,
        kept.cached,
        remarks=(*said["remarks"], *_remarks(said, strange)),
    )


def derivative(
    resources: Resources,
    recording: Recording,
    drawer: Drawer,
    draws: int,
    timesteps: Sequence[int],
) -> cache.Computed:
    """Of a question's loss by the weight of each image that was shown, and what is to be said."""
    denoiser = resources.denoiser
    remarks = list(drawer.check(denoiser))
    replay = Replay(recording, denoiser.network)
    require_end(replay)
    machine = machine_of(resources, replay, timesteps)
    end = by_parameters(replay, machine, mean_row(machine, drawer, draws))
    if not end.isfinite().all() or not end.any():
        raise NonFiniteError(
            f"{drawer.title!r} gave an all-zero or NaN gradient: what was trained may have no say "
            "in it, ask another question"
        )
    bar = ProgressBar(total=recording.steps, desc="training, backwards", unit="step")
    with frozen(denoiser.network), bar:
        found = metagradient(replay, end[None], bar.update)
    said = {
        "ids": list(found.by_image),
        "remarks": remarks,
        "steps": recording.steps,
        "derived": found.steps,
        "growth": max(found.growth),
        "gradient error": found.gradient_error,
        "drift": found.drift,
    }
    return {"derivative": torch.stack([row[0] for row in found.by_image.values()])}, said


def require_end(replay: Replay) -> None:
    """Refuse a recording of another training than the model's.

    Raises:
        MismatchError: it ends at other numbers.
    """
    recording = replay.recording
    state = recording.state(recording.steps)
    assert state is not None, "a recording without its end is refused"
    own = torch.cat([parameter.detach().flatten() for parameter in replay.parameters.values()])
    end = state[0].weights.to(own)
    if (own - end).norm() > ROUNDED * end.norm():
        raise MismatchError(
            f"the training in {recording.folder} ends at other weights than this model's: give "
            "the model or the --lora that it made, at scale 1"
        )


def machine_of(resources: Resources, replay: Replay, timesteps: Sequence[int]) -> Extractor:
    """What makes rows of a question that hold every number of the layers that were trained."""
    layers = tuple(dict.fromkeys(name.rpartition(".")[0] for name in replay.parameters))
    recipe = replace(
        resources.index.recipe,
        train_path="noising",
        train_delta="dsm",
        normalise="none",
        layers=layers,
        timesteps=tuple(timesteps),
        draws=1,
        loss_weights="uniform",
    )
    try:
        machine = without_projection(resources.denoiser, recipe)
    except KeyError as error:
        raise MethodError(
            f"{error.args[0]} was trained, and is no layer whose gradients are known: train "
            "others, or LoRA of linear and convolutional layers"
        ) from None
    forms, total = forms_as_they_are(machine.layers), sum(map(size, machine.layers.values()))
    device = machine.denoiser.device
    return replace(machine, projection=project("identity", forms, total, machine.seed, device))


def by_parameters(
    replay: Replay, machine: Extractor, row: Float[Tensor, " d"]
) -> Float[Tensor, " p"]:
    """A row of these layers' numbers in the order of the recording's parameters."""
    every = [each for layer in machine.layers.values() for each in parameters_of(layer)]
    parts = row.split([each.numel() for each in every])
    places = {id(each): part for each, part in zip(every, parts, strict=True)}
    return torch.cat([places[id(each)] for each in replay.parameters.values()])


def in_order_of(
    resources: Resources, by_image: Mapping[str | int, Tensor]
) -> tuple[Float[Tensor, " n"], int]:
    """Scores in index order, 0 of images that were not shown; how many shown are not there.

    Raises:
        MismatchError: none is.
    """
    samples, positions = resources.index.samples, resources.index.positions
    names = [
        {sample.id, position} & by_image.keys()
        for sample, position in zip(samples, positions, strict=True)
    ]
    strange = len(by_image) - sum(map(len, names))
    if strange == len(by_image):
        raise MismatchError(
            f"no image of {resources.index.path} was shown in the recorded training "
            f"(which saw {next(iter(by_image))!r}): give Recorder.batch() the ids of a "
            "TrainingSet, or row numbers"
        )
    found = torch.stack([sum((by_image[n] for n in own), torch.zeros(())) for own in names])
    return -found, strange


def _steps_words(said: Mapping[str, int]) -> str:
    steps, derived = said["steps"], said["derived"]
    return f"all {steps} steps" if derived == steps else f"the last {derived} of {steps} steps"


def _remarks(said: Mapping[str, int], strange: int) -> list[str]:
    found = []
    if said["derived"] < said["steps"]:
        found.append(
            f"The training is not stable before its last {said['derived']} steps (a change there "
            f"grows {GROWTH:g} times), so what images did before is not told"
        )
    if strange:
        found.append(f"{strange} images that the training saw are not in the index")
    return found
