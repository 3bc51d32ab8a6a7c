"""Options of the commands that ask a question."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.queries.words.presets import PRESETS

Prompt = Annotated[
    str | None, typer.Argument(help="The prompt that holds the concept.", metavar="PROMPT")
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"A case study of the Concept-TRAK paper, instead of PROMPT: {', '.join(PRESETS)}."
    ),
]
Concepts = Annotated[
    list[str] | None, typer.Option("--concept", help="Words of the prompt; may be repeated.")
]
Ask = Annotated[
    str,
    typer.Option(
        help="What is asked of --concept: slider (which way it lies), contribution (what its words "
        "gain) or loss; the last two on --pictures."
    ),
]
Pictures = Annotated[
    Path | None,
    typer.Option(
        help="Pictures that show the concept, for --ask contribution or loss: a folder, or a file "
        "of such as for `index`. Without them the model makes some."
    ),
]
Feature = Annotated[
    Path | None,
    typer.Option(
        help="An .npy file, instead of PROMPT: a question's feature, such as the concept_grad.npy "
        "of the published Concept-TRAK code.",
        metavar="FILE",
    ),
]
Reward = Annotated[
    str | None,
    typer.Option(help="module:function of images, differentiable; instead of --concept."),
]
RewardText = Annotated[
    str | None,
    typer.Option(help="Words that pictures should look like, by --clip; instead of --concept."),
]
Local = Annotated[
    Path | None,
    typer.Option(
        help="A picture: ask for --concept as it shows it; without --concept, for all that it "
        "shows besides what the prompt (may be '') names.",
        metavar="IMAGE",
    ),
]
LocalMask = Annotated[
    Path | None,
    typer.Option("--mask", help="Of --local: a picture of its size, white where it counts."),
]
Minus = Annotated[
    str | None,
    typer.Option(
        help="The prompt without the concept, if not by taking it out; asks in this one prompt."
    ),
]
Anchor = Annotated[
    str,
    typer.Option(
        help="Words that stand in the concept's place in the prompt without it (shape for star); "
        "by default none.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None, typer.Option(help="Prompt that trajectories run under (the prompt itself).")
]
Context = Annotated[
    str, typer.Option(help="auto, prompt, bare, or a file of prompts with the concept.")
]
Trajectories = Annotated[str, typer.Option("--draws", help="Trajectories per concept, or `auto`.")]
Swap = Annotated[
    bool, typer.Option("--swap", help="Exchange c+ and c-: ask for the want of the concept.")
]
Alternatives = Annotated[
    str | None,
    typer.Option(
        help="Of presence: what else could stand in the concept's place, with commas "
        "(red,blue,green), or `none`; default what captions have there."
    ),
]
PictureFile = Annotated[Path | None, typer.Argument(help="A picture file.", metavar="IMAGE")]
PicturePrompt = Annotated[
    str, typer.Option("--prompt", help="Makes the picture; or says what it is of.")
]
PictureMask = Annotated[
    Path | None,
    typer.Option(
        "--mask",
        help="A picture of the same size, white where it counts. Concept-TRAK asks what the "
        "prompt makes there; without a prompt, what the picture shows.",
    ),
]
Step = Annotated[
    int | None, typer.Option(help="A timestep of the picture's making (999 to 19 by 20).")
]
Journey = Annotated[
    bool, typer.Option("--journey", help="Every step of its making that the index has.")
]
NoiseDraws = Annotated[str, typer.Option("--draws", help="Of noise, or `auto`.")]
Judge = Annotated[
    str | None,
    typer.Option(help="module:function of pictures, what it sees of each feature (--journey)."),
]
Groups = Annotated[
    str | None,
    typer.Option(
        help="Groups of training images: a .csv file of id,group, or words with commas, each the "
        "images whose caption names it (--method guda).",
        metavar="FILE|WORDS",
    ),
]
PairsFolder = Annotated[
    Path, typer.Argument(help="A folder with winners/ and losers/, or a parquet file.")
]
PairDraws = Annotated[str, typer.Option("--draws", help="Pairs to ask about; `auto` takes all.")]
PairSeed = Annotated[int, typer.Option("--seed", help="Of the choice of pairs.")]


def alternatives_in(text: str | None) -> tuple[str, ...] | None:
    """The values of --alternatives; () for `none`, None where nothing was said."""
    if text is None:
        return None
    return () if text == "none" else tuple(value.strip() for value in text.split(","))
