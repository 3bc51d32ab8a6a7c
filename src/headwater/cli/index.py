"""`headwater index`: the features of every training image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.cli.options import (
    Base,
    Buckets,
    CaptionColumn,
    ClipFolder,
    ClipSkip,
    Device,
    DistilledGuidance,
    Dtype,
    EngineName,
    ImageColumn,
    Jobs,
    Limit,
    Lora,
    LoraScale,
    ModelName,
    Options,
    Parameters,
    Resize,
    Resolution,
    Run,
    Split,
    Token,
    Trigger,
    dtype_named,
    fetched,
    images_of,
    model_options,
    number_or_auto,
    on_a_disk,
    with_options,
)
from headwater.cli.tables import print_facts
from headwater.errors import ParameterError
from headwater.methods.table import DEFAULT_METHOD
from headwater.runtime.console import hush, printable, say

if TYPE_CHECKING:
    from headwater.data.training_set import TrainingSet
    from headwater.models.clip import Clip
    from headwater.models.denoiser import Denoiser


Data = Annotated[
    str,
    typer.Argument(
        help="A folder, parquet, tar, zip, a table of paths, a `datasets` name, or `scenes`."
    ),
]
NewFolder = Annotated[Path, typer.Argument(help="Folder of the index.", parser=on_a_disk)]
MethodName = Annotated[str, typer.Option(help="Attribution method.")]
Timesteps = Annotated[int, typer.Option(help="Probes per image, evenly spaced.")]
Dim = Annotated[
    int | None,
    typer.Option(
        help="Features per image (32768 of ekfac-presence, ekfac and kfac, else 8192; all "
        "parameters if fewer)."
    ),
]
Projection = Annotated[
    str, typer.Option(help="count-sketch, factored, mask, gaussian, rademacher, identity.")
]
InversionGuidance = Annotated[
    float | None,
    typer.Option(help="Classifier-free guidance of the inversion; the method's if not given."),
]
LossWeights = Annotated[
    str,
    typer.Option(
        help="Of timesteps in training: uniform, min-snr, logit-normal, or (the bundled model) "
        "shapes-first."
    ),
]
CurvatureTargets = Annotated[
    str, typer.Option(help="Of a curvature: that of the model (Gauss-Newton) or of the data.")
]
NoiseDraws = Annotated[int, typer.Option(help="Of noise at each timestep.")]
Checkpoints = Annotated[
    list[str] | None, typer.Option(help="More models to average over; may be repeated.")
]
RowSeed = Annotated[int, typer.Option(help="Seed of projections and noise.")]
ImagesAtATime = Annotated[str, typer.Option(help="Images at a time, or `auto`.")]
OnePart = Annotated[
    str | None,
    typer.Option(help="I/N: only the I-th of N parts, from 0, as for array jobs of a cluster."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out files that are no images.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Drop an index that is there already.")
]
SelfCheck = Annotated[bool, typer.Option(help="First compare gradients with float64 autograd.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="torch.compile what lies between the layers.")
]
Recompute = Annotated[
    bool,
    typer.Option("--recompute", help="Keep no activations of blocks: less memory, more time."),
]
Encodings = Annotated[
    Path | None, typer.Option(help="Folder that keeps encoded images and captions.")
]
Reuse = Annotated[
    Path | None,
    typer.Option(
        help="An index of the same model and recipe: rows of images that have not changed, and "
        "the curvature, are taken over, only new ones computed.",
        parser=fetched,
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take; write nothing.")]

# Options that `build_index` takes by the same names: what rows are, and how they are made.
_RECIPE = (
    "method", "parameters", "timesteps", "dim", "seed", "projection", "inversion_guidance",
    "loss_weights", "curvature_targets", "draws",
)  # fmt: skip
_HOW = ("skip_bad", "overwrite", "self_check", "compile", "recompute", "encodings", "reuse")


@with_options
def index(
    given: Options,
    model: ModelName,
    data: Data,
    out: NewFolder,
    method: MethodName = DEFAULT_METHOD,
    parameters: Parameters = None,
    timesteps: Timesteps = 10,
    dim: Dim = None,
    projection: Projection = "count-sketch",
    inversion_guidance: InversionGuidance = None,
    loss_weights: LossWeights = "uniform",
    curvature_targets: CurvatureTargets = "model",
    draws: NoiseDraws = 1,
    clip: ClipFolder = None,
    checkpoint: Checkpoints = None,
    seed: RowSeed = 0,
    base: Base = None,
    lora: Lora = None,
    lora_scale: LoraScale = None,
    token: Token = None,
    resolution: Resolution = None,
    buckets: Buckets = None,
    resize: Resize = None,
    clip_skip: ClipSkip = None,
    distilled_guidance: DistilledGuidance = None,
    run: Run = None,
    dtype: Dtype = "float32",
    batch_size: ImagesAtATime = "auto",
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    trigger: Trigger = None,
    limit: Limit = None,
    device: Device = None,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    shard: OnePart = None,
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
    self_check: SelfCheck = True,
    compile: Compile = False,
    recompute: Recompute = False,
    encodings: Encodings = None,
    reuse: Reuse = None,
    dry_run: DryRun = False,
) -> None:
    """Compute the features of every training image. Run again, it goes on where it stopped.

    Several at once build one index together, on any machines that see its folder: array jobs with
    --shard, processes of torchrun or accelerate launch, or just the same command again.
    """
    size, precision = number_or_auto("--batch-size", batch_size), dtype_named(dtype)
    part = None if shard is None else part_named(shard)
    from headwater.models.denoiser import Denoiser
    from headwater.runtime.executor import Executor
    from headwater.runtime.launch import own_device, own_rank

    workers, rank = Executor(engine, jobs), own_rank()
    if rank.count > 1:
        _settle_among(rank.number, overwrite)
        device = own_device(rank, device)
    images = images_of(data, split, image_column, caption_column, limit, trigger)
    denoiser = Denoiser.load(model, device, precision, **model_options(given))
    recipe = {name: given[name] for name in _RECIPE}
    recipe["clip"] = None if clip is None else _clip_model(clip, denoiser)
    checkpoints = checkpoint or ()
    if dry_run:
        _print_estimate(denoiser, images, checkpoints, size, recipe, reuse)
        return
    how = {name: given[name] for name in _HOW} | {"batch_size": size, "executor": workers}
    built = _build(denoiser, images, out, part, checkpoints=checkpoints, **how, **recipe)
    if rank.number == 0:
        print(built)


def part_named(text: str) -> tuple[int, int]:
    """What --shard says: which part of how many.

    >>> part_named("0/4")
    (0, 4)
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None:
        raise ParameterError(f"--shard {text!r} must be I/N, such as 0/4, 1/4, 2/4 and 3/4")
    return int(found[1]), int(found[2])


def _settle_among(rank: int, overwrite: bool) -> None:
    """Let the first of several processes alone speak; refuse what they would do to each other."""
    if overwrite:
        raise ParameterError(
            "--overwrite with several processes would remove what the others write: remove the "
            "folder first"
        )
    if rank > 0:
        hush()


def _clip_model(folder: Path, denoiser: Denoiser) -> Clip:
    from headwater.models.clip import Clip

    return Clip(folder, denoiser.device)


def _print_estimate(
    denoiser: Denoiser,
    images: TrainingSet,
    checkpoints: Sequence[str],
    batch_size: int | None,
    recipe: Mapping[str, Any],
    reuse: Path | None,
) -> None:
    """What the index would take."""
    from headwater.index.building.begin import new_manifest
    from headwater.index.building.notes import notes_on_parameters
    from headwater.index.building.reuse import kept_rows
    from headwater.index.config import planned_of_all
    from headwater.index.estimate import estimate

    planned = planned_of_all(denoiser, checkpoints, **recipe)
    for line in notes_on_parameters(denoiser, planned[0], recipe):
        say(line)
    taken_over, clip = None, recipe["clip"]
    if reuse is not None:
        new = new_manifest(denoiser, images, planned[0], clip)
        taken_over = len(kept_rows(reuse, new, images).rows)
    print_facts(estimate(denoiser, images, planned, batch_size, clip, taken_over))


def _build(
    denoiser: Denoiser,
    images: TrainingSet,
    out: Path,
    part: tuple[int, int] | None,
    **options: Any,
) -> str:
    """Build the index, and say what is in it; `options` are those of `build_index`."""
    from headwater.index.build import build_shard

    index = build_shard(denoiser, images, out, part or (0, 1), note=say, **options)
    if index is None:
        return printable(f"this part of {out} is done")
    skipped = index.manifest.skipped
    if skipped:
        say(f"skipped {len(skipped)} bad file(s): {', '.join(skipped[:5])}")
    return printable(f"{len(index)} rows of {index.recipe.dim} features in {out}")
