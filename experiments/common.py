"""What the experiments share: where results lie, what they say of themselves, the data's place."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from headwater.evaluation.reporting.results import circumstances
from headwater.evaluation.retraining.clip import train_clip
from headwater.models.clip import Clip
from headwater.runtime.executor import EXECUTORS, Executor

RESULTS = Path(__file__).parent / "results"


def parser(doc: str | None, *stages: str) -> argparse.ArgumentParser:
    """The command line that every experiment has."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("stage", choices=stages)
    made.add_argument("--full", action="store_true", help="the size for a GPU")
    made.add_argument("--draws", type=int, default=16, help="of each question")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def add_workers(command: argparse.ArgumentParser) -> None:
    """The options of experiments that train many models; `executor_of` reads them."""
    command.add_argument("--engine", choices=EXECUTORS, default="local", help="who trains models")
    command.add_argument("--jobs", type=int, default=1, help="models trained side by side")


def executor_of(given: argparse.Namespace) -> Executor:
    """Who trains the models."""
    return Executor(given.engine, given.jobs)


def about(given: argparse.Namespace, **settings: Any) -> dict[str, Any]:
    """What a table says of how it was made."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": json.loads(json.dumps({**vars(given), **settings}, default=str)),
        **circumstances(),
    }


def real_data(name: str) -> Path:
    """A folder of real data (docs/data.md); leaves with one line where there is none."""
    folder = os.environ.get("HEADWATER_DATA")
    found = Path(folder or "") / name
    if not folder or not found.is_dir():
        sys.exit(f"there is no {name}: let HEADWATER_DATA name the folder that holds it")
    return found


def kept_clip(
    folder: Path, taught: Callable[[], tuple[list[Image.Image], list[str]]], device: str
) -> Clip:
    """A small CLIP, trained once on pictures and their captions."""
    if not (folder / "preprocessor_config.json").exists():
        train_clip(*taught(), folder)
    return Clip(folder, device)
