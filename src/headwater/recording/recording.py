"""A training on disk: what each step saw, and the weights before some of them.

    run.json                     what was trained, by which optimizer, in how many steps
    steps/000123.safetensors     batches of a step; rows of tensors, named by their digests
    states/000120.safetensors    weights, moments and the gradient before a step

A row that was seen before (the same caption) is not written again: a step says in which file it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headwater.errors import StoreError
from headwater.recording.optimizers import NAMED, Rule, State
from headwater.storage.cache import key
from headwater.storage.files import (
    digest_of,
    read_json,
    read_tensors,
    remove_parts,
    write_tensors,
    write_text,
)

FORMAT_VERSION = 1


class Shown(NamedTuple):
    """A batch of a step.

    Attributes:
        ids: of its images.
        args, kwargs: what the network was called with.
        target: what its output was compared with.
        weights: of each image in the loss besides; None for 1.
    """

    ids: tuple[str | int, ...]
    args: Any
    kwargs: Any
    target: Tensor
    weights: Tensor | None = None


class Step(NamedTuple):
    """What a step did: its batches, whose losses are averaged, and the options of each group."""

    batches: tuple[Shown, ...]
    options: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Recording:
    """A training that was recorded whole.

    Attributes:
        names: of the parameters, in the order of the optimizer's groups.
        sizes: how many numbers each has.
        groups: how many numbers the parameters of each group have together.
        optimizer: a name of `optimizers.NAMED`.
        max_grad_norm: what gradients were clipped to; None for not.
        steps: how many.
    """

    folder: Path
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    groups: tuple[int, ...]
    optimizer: str
    max_grad_norm: float | None
    steps: int

    @property
    def rule(self) -> Rule:
        """How a step is made."""
        return NAMED[self.optimizer]

    def step(self, number: int) -> Step:
        """What a step did.

        Raises:
            StoreError: it is missing or damaged.
        """
        path = step_file(self.folder, number)
        text = _head(path, "step")
        if _head(path, "step_sha256") != key(text):
            raise _damaged(path)
        said = json.loads(text)
        return Step(
            tuple(Shown(tuple(ids), *map(self._unpacked, rest)) for ids, *rest in said["batches"]),
            tuple(said["options"]),
        )

    def state(self, number: int) -> tuple[State, Float[Tensor, " p"]] | None:
        """The state before a step and the gradient of it; None where it was not kept.

        Raises:
            StoreError: it is damaged.
        """
        path = state_file(self.folder, number)
        if not path.exists():
            return None
        tensors = read_tensors(path)
        if tensors is None:
            raise _damaged(path)
        moments = tuple(tensors[name] for name in self.rule.moments)
        return State(tensors["weights"], moments, int(tensors["count"])), tensors["gradient"]

    @cached_property
    def kept(self) -> list[int]:
        """Steps before which the state was kept; the last is the end."""
        return sorted(int(path.stem) for path in (self.folder / "states").glob("*.safetensors"))

    @cached_property
    def digest(self) -> str:
        """sha256 of all that was recorded."""
        digest = hashlib.sha256((self.folder / "run.json").read_bytes())
        for number in range(self.steps):
            digest.update(_head(step_file(self.folder, number), "step_sha256").encode())
        for number in self.kept:
            digest.update(_head(state_file(self.folder, number), "sha256").encode())
        return digest.hexdigest()

    def _unpacked(self, packed: Any) -> Any:
        """What `Packer` packed."""
        kind, value = packed
        if kind == "rows":
            return torch.stack([self._row(*place) for place in value])
        if kind == "tensor":
            return self._row(*value)
        if kind in ("tuple", "list"):
            return (tuple if kind == "tuple" else list)(map(self._unpacked, value))
        if kind == "dict":
            return {name: self._unpacked(each) for name, each in value.items()}
        return value

    def _row(self, digest: str, step: int) -> Tensor:
        path = step_file(self.folder, step)
        try:
            with safe_open(path, "pt") as file:
                tensor = file.get_tensor(digest).clone()
        except (OSError, SafetensorError):
            raise _damaged(path) from None
        if digest_of({"": tensor}) != digest:
            raise _damaged(path)
        return tensor


class Packer:
    """Nested values as JSON, their tensors row by row by content: once each.

    Attributes:
        seen: digest of a row -> the step that holds it.
    """

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def packed(self, value: Any, rows: int, step: int, into: dict[str, Tensor]) -> Any:
        """[kind, contents]; rows that were not seen before are put `into` a step's.

        Raises:
            TypeError: it is no number, text, tensor or collection of these.
        """
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            if value.ndim and len(value) == rows:
                return ["rows", [self._place(row, step, into) for row in value]]
            return ["tensor", self._place(value, step, into)]
        if isinstance(value, Mapping):
            said = {str(k): self.packed(v, rows, step, into) for k, v in value.items()}
            return ["dict", said]
        if isinstance(value, (tuple, list)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return [kind, [self.packed(each, rows, step, into) for each in value]]
        if value is None or isinstance(value, (bool, int, float, str)):
            return ["value", value]
        raise TypeError(type(value).__name__)

    def _place(self, row: Tensor, step: int, into: dict[str, Tensor]) -> list[Any]:
        row = row.clone()  # a row of a batch would be saved with all of it
        digest = digest_of({"": row})
        if self.seen.setdefault(digest, step) == step:
            into[digest] = row
        return [digest, self.seen[digest]]


def read_recording(folder: str | Path) -> Recording:
    """A training that `Recorder` recorded.

    Raises:
        StoreError: there is none, it did not come to its end, or something of it is missing.
    """
    folder = Path(folder)
    try:
        facts = read_json(folder / "run.json")
    except FileNotFoundError:
        raise StoreError(
            f"{folder} is no recorded training: give the folder of a Recorder"
        ) from None
    except ValueError as error:
        raise StoreError(f"{folder / 'run.json'} is no JSON ({error}): record it again") from None
    if not isinstance(facts, dict) or facts.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{folder} was recorded in another format: record the training again")
    if facts.pop("sha256", None) != key(facts):
        raise _damaged(folder / "run.json")
    if facts["steps"] is None:
        raise StoreError(
            f"the recording in {folder} did not come to its end: Recorder.close() is called after "
            "the last step"
        )
    found = Recording(
        folder,
        tuple(facts["names"]),
        tuple(facts["sizes"]),
        tuple(facts["groups"]),
        facts["optimizer"],
        facts["max_grad_norm"],
        facts["steps"],
    )
    if found.kept[:1] != [0] or found.kept[-1] != found.steps:
        raise StoreError(f"{folder} lacks its first or last state: record the training again")
    return found


def write_step(folder: Path, number: int, said: Mapping[str, Any], rows: dict[str, Tensor]) -> None:
    """Keep a step: its batches packed, and the rows that are new."""
    text = json.dumps(said)
    write_tensors(step_file(folder, number), rows, {"step": text, "step_sha256": key(text)})


def write_state(
    folder: Path, number: int, state: State, rule: Rule, gradient: Float[Tensor, " p"]
) -> None:
    """Keep the state before a step, and its gradient."""
    moments = dict(zip(rule.moments, state.moments, strict=True))
    tensors = {"weights": state.weights, "gradient": gradient, **moments}
    count = torch.tensor(state.count)
    write_tensors(state_file(folder, number), {**tensors, "count": count}, {})


def drop_steps(folder: Path, first: int) -> dict[str, int]:
    """Drop what was recorded from a step on; of what is left, digest of a row -> step.

    Raises:
        StoreError: a step before it is missing or damaged.
    """
    seen: dict[str, int] = {}
    for number in range(first):
        path = step_file(folder, number)
        try:
            with safe_open(path, "pt") as file:
                seen |= dict.fromkeys(file.keys(), number)
        except (OSError, SafetensorError):
            raise StoreError(
                f"{path} is missing or damaged, and the training goes on at step {first}: record "
                "it from its beginning"
            ) from None
    for kind, stays in (("steps", first), ("states", first + 1)):
        for path in (folder / kind).glob("*.safetensors"):
            if int(path.stem) >= stays:
                path.unlink()
    for written in (folder, folder / "steps", folder / "states"):
        remove_parts(written, older_than=0)  # of a training that was killed
    return seen


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Keep what was trained; `steps` is None until the end."""
    facts = {"format_version": FORMAT_VERSION, **facts}
    write_text(folder / "run.json", json.dumps({**facts, "sha256": key(facts)}, indent=2) + "\n")


def flat(tensors: Sequence[Tensor]) -> Float[Tensor, " p"]:
    """All numbers of these as one vector, on the CPU."""
    return torch.cat([tensor.detach().reshape(-1).cpu() for tensor in tensors])


def step_file(folder: Path, number: int) -> Path:
    """Where a step is kept."""
    return folder / "steps" / f"{number:06d}.safetensors"


def state_file(folder: Path, number: int) -> Path:
    """Where the state before a step is kept, if it is."""
    return folder / "states" / f"{number:06d}.safetensors"


def _head(path: Path, name: str) -> str:
    """What the metadata of a file says of it."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {})[name]
    except (OSError, SafetensorError, KeyError):
        raise _damaged(path) from None


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is missing or damaged: record the training again")
