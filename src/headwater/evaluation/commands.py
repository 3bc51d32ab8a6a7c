"""`headwater evaluate ...`: how far can an answer be trusted?"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headwater.commands.options import Device, Guidance, IndexFolder, Json, number_or_auto
from headwater.errors import ParameterError
from headwater.terminal import quiet_libraries

if TYPE_CHECKING:
    from headwater.evaluation.answers import Asking
    from headwater.evaluation.studies import Setting

app = typer.Typer(help="How far can an answer be trusted?", rich_markup_mode=None)

Truths = Annotated[str, typer.Argument(help="scenes, scenes:unseen, or a JSON file of concepts.")]
Out = Annotated[Path, typer.Argument(help="Folder for table.md, results.json and plots.")]
More = Annotated[
    list[Path] | None,
    typer.Option("--index", help="More indexes of the same images, for methods of other features."),
]
Methods = Annotated[
    str,
    typer.Option(
        help="Names with commas, or `all`. By default all that the indexes serve but `unlearning`, "
        "which is slow, and second names."
    ),
]
Draws = Annotated[str, typer.Option(help="Of each question, or `auto`.")]
Seed = Annotated[int, typer.Option(help="Of pictures and draws.")]
Context = Annotated[str, typer.Option(help="Of concepts: auto, prompt or bare.")]
Top = Annotated[int, typer.Option(help="k of precision@k.")]
Config = Annotated[Path, typer.Argument(help="JSON file: how the models are made and trained.")]
Data = Annotated[str, typer.Argument(help="Images to train on, as `headwater index` takes them.")]
HeldOut = Annotated[int, typer.Option(help="Images taken out, to measure losses on.")]
Subsets = Annotated[int, typer.Option(help="Random halves, each trained once.")]
Again = Annotated[int, typer.Option(help="Halves trained with another seed too, for the ceiling.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N images.")]
Ratio = Annotated[float, typer.Option("--damping", help="Of the kernel, in mean eigenvalues.")]
Jobs = Annotated[int, typer.Option(help="Models trained side by side.")]


@app.command()
def isolation(
    index: IndexFolder,
    truth: Truths,
    out: Out,
    more: More = None,
    methods: Methods = "",
    draws: Draws = "32",
    top: Top = 10,
    seed: Seed = 0,
    guidance: Guidance = 5.0,
    context: Context = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Can a method tell which concept of a prompt was asked for?"""
    _evaluate("isolation", **locals())


@app.command()
def retrieval(
    index: IndexFolder,
    truth: Truths,
    out: Out,
    more: More = None,
    methods: Methods = "",
    draws: Draws = "32",
    top: Top = 10,
    seed: Seed = 0,
    guidance: Guidance = 5.0,
    context: Context = "auto",
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Does a method find the images that show the concept?"""
    _evaluate("retrieval", **locals())


def _evaluate(
    kind: str,
    *,
    index: Path,
    truth: str,
    out: Path,
    more: list[Path] | None,
    methods: str,
    draws: str,
    top: int,
    seed: int,
    guidance: float,
    context: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Ask, write, print the table or JSON."""
    given = locals().copy()  # the command line, before anything is made of it
    count = number_or_auto("--draws", draws)
    if top < 1:
        raise ParameterError(f"--top {top} must be at least 1")
    quiet_libraries()
    from headwater.evaluation import answers, plots, scoring
    from headwater.evaluation.results import markdown
    from headwater.evaluation.truth import read_truths

    plots.require_matplotlib()
    indexes = answers.open_all([index, *(more or ())], device)
    chosen = answers.serving(indexes, [name.strip() for name in methods.split(",") if name.strip()])
    found = read_truths(truth, indexes[0].samples)
    asking = answers.Asking(count, seed, guidance, context)
    rows, written = scoring.evaluate(kind, chosen, found, asking, out, about(kind, given), k=top)
    if as_json:
        print(json.dumps(written, ensure_ascii=False))
    else:
        print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


@app.command()
def lds(
    config: Config,
    data: Data,
    out: Out,
    methods: Annotated[str, typer.Option(help="Names with commas.")] = "trak,d-trak,das,random",
    held_out: HeldOut = 100,
    subsets: Subsets = 16,
    again: Again = 8,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = 0.1,
    seed: Seed = 0,
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of pictures predict losses of models that half of the images are kept from?"""
    given = locals().copy()
    setting, names, asking = _study(given)
    from headwater.evaluation.studies import lds_of_pictures

    rows = lds_of_pictures(setting, names, asking)
    title = f"LDS: {held_out} pictures, {subsets} halves of {len(setting.trained)} images"
    _write(out, title, about("lds", given), rows)


@app.command()
def concept_lds(
    config: Config,
    data: Data,
    truth: Truths,
    out: Out,
    methods: Annotated[
        str, typer.Option(help="Names with commas.")
    ] = "concept-trak,trak,d-trak,random",
    held_out: HeldOut = 200,
    subsets: Subsets = 16,
    again: Again = 8,
    limit: Limit = None,
    draws: Draws = "32",
    damping: Ratio = 0.1,
    seed: Seed = 0,
    jobs: Jobs = 1,
    device: Device = None,
) -> None:
    """Do scores of concepts predict how much of them models of half of the images learn?"""
    given = locals().copy()
    setting, names, asking = _study(given)
    from headwater.evaluation.studies import lds_of_concepts

    for output, rows in lds_of_concepts(setting, names, truth, asking).items():
        title = f"Concept LDS, output {output}: {subsets} halves of {len(setting.trained)} images"
        _write(out / output, title, about("concept-lds", given), rows)


def _study(given: Mapping[str, Any]) -> tuple[Setting, list[str], Asking]:
    """What a study of halves needs, from its command line."""
    count = number_or_auto("--draws", given["draws"])
    quiet_libraries()
    from headwater.dataset import load_dataset
    from headwater.evaluation.answers import Asking
    from headwater.evaluation.halving import Plan
    from headwater.evaluation.models import read_config
    from headwater.evaluation.studies import Setting, split

    data = load_dataset(given["data"])
    data = data if given["limit"] is None else data.first(given["limit"])
    trained, held = split(data, given["held_out"], given["seed"])
    plan = Plan(len(trained), given["subsets"], given["again"], given["seed"])
    device = given["device"] or "cpu"
    config = read_config(given["config"])
    setting = Setting(given["out"], config, trained, held, plan, given["jobs"], device)
    names = [name.strip() for name in given["methods"].split(",") if name.strip()]
    return setting, names, Asking(count, given["seed"], damping=given["damping"])


def _write(out: Path, title: str, about: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
    from headwater.evaluation.results import markdown, write_results

    write_results(out, title, about, rows, NOTES)
    print(markdown(rows), f"Results: {out / 'table.md'}", sep="\n")


NOTES = (
    "LDS: Spearman correlation, over the halves, of a model's output with minus the sum of the "
    "scores of what it saw; mean over queries",
    "noise ceiling: what a perfect prediction would reach, from halves trained with two seeds",
    "intervals: 95%, bootstrap over the halves",
)


def about(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What every result says of itself: the command as it was given, the date, the versions."""
    from headwater.evaluation.results import circumstances

    settings = {name: value for name, value in given.items() if name not in ("kind", "as_json")}
    return {
        "evaluation": kind,
        "command": shlex.join(["headwater", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps(settings, default=str)),
        **circumstances(),
    }
