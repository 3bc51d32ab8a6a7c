"""Captions against the model's own eyes: what they say and it does not see, and the reverse.

For each kind of words (`queries/words/alternatives.py`) the model's error on each image is taken
under its caption with every value of the kind (`attribution/scorers/content/presence.py`). A
caption is doubted where another value explains its image better, and says too little where it names
none and one explains the image much better than the rest. By how much is measured against captions
of the same kind that the model agrees with: 1 is as surely as it sees what is said of the median
one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headwater.attribution.scorers.content.presence import SHARES, Losses, losses_of, prepare
from headwater.attribution.scorers.content.versions import Kind
from headwater.attribution.session import Session
from headwater.data.training_set import Sample
from headwater.errors import QueryError

MOST_KINDS = 8  # of those that captions name most often; each costs as many passes as it has values
SURE = 0.5  # strength from which an image shows what its caption leaves out


@dataclass(frozen=True)
class Finding:
    """An image whose caption and what the model sees in it differ.

    Attributes:
        row: of the index.
        says: the value that the caption names; "" for none.
        sees: the value that explains the image best.
        strength: by how much better than what is said, or than the second best; 1 is the median of
            what captions say and the model sees.
    """

    row: int
    sample: Sample
    says: str
    sees: str
    strength: float

    @property
    def words(self) -> str:
        """Both values, in a few words."""
        return f"{self.says or '(nothing)'} -> {self.sees}"


@dataclass(frozen=True)
class Audited:
    """What was found of one kind of words.

    Attributes:
        values: that the model tells apart; the others are in `unseen`.
        agreed: how many captions name what it sees.
    """

    values: tuple[str, ...]
    unseen: tuple[str, ...]
    agreed: int
    wrong: tuple[Finding, ...]
    unsaid: tuple[Finding, ...]


@dataclass(frozen=True)
class Audit:
    """All that was found, the strongest first, and what a reader must know of it."""

    kinds: tuple[Audited, ...]
    remarks: tuple[str, ...]
    provenance: Mapping[str, Any]

    @property
    def wrong(self) -> list[Finding]:
        """Captions that say what the model does not see, each with its strongest doubt.

        A false word makes the model doubt the true words beside it as well.
        """
        found = _strongest([each for kind in self.kinds for each in kind.wrong])
        first = {each.row: each for each in reversed(found)}
        return [each for each in found if first[each.row] is each]

    @property
    def unsaid(self) -> list[Finding]:
        """Images that show what their caption does not say, but for those that are doubted."""
        doubted = {each.row for kind in self.kinds for each in kind.wrong}
        found = [each for kind in self.kinds for each in kind.unsaid if each.row not in doubted]
        return _strongest(found)


def audit(
    session: Session,
    kinds: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    note: Callable[[str], None] = lambda line: None,
) -> Audit:
    """Hold every caption of an index's images against what the model sees in them.

    Args:
        session: of any index; its features are not used.
        kinds: words of which an image shows one at most, kind by kind; None for those that captions
            set in the same place.
        seed: of the noise.
        note: called with a line of text on what is done.

    Raises:
        QueryError: captions set no two words in the same place, or a kind has a single value.
        MethodError: the model reads no prompts.

    Example:
        found = audit(Session.open("my-index"), kinds=[["dog", "cat"]])
    """
    given = kinds is not None
    chosen = [tuple(kind) for kind in kinds] if kinds is not None else session.kinds
    _require_kinds(chosen, given)
    asked = [Kind(kind, "given" if given else "captions") for kind in chosen[:MOST_KINDS]]
    count = sum(len(kind.values) for kind in asked)
    passes = count * len(SHARES) * len(session.index)
    note(f"{count} values of {len(asked)} kind(s): {passes:,} forward passes, if none is kept")
    with session.lock:
        prepare(session, [(kind, kind.values[0]) for kind in asked], seed)
        found = [losses_of(session, kind, kind.values[0], seed) for kind in asked]
    audited = tuple(_audited(session.index.samples, losses) for losses in found)
    manifest = session.index.manifest
    facts = {
        "model": dict(manifest.model),
        "data": dict(manifest.data),
        "kinds": [list(kind.values) for kind in asked],
        "kinds from": "given" if given else "words in the same place of captions",
        "timesteps": list(SHARES),
        "seed": seed,
    }
    return Audit(audited, tuple(_remarks(audited, found, len(chosen))), facts)


def _require_kinds(kinds: Sequence[Sequence[str]], given: bool) -> None:
    if not kinds:
        raise QueryError(
            "captions set no two words in each other's place, so there is nothing to hold them "
            "against: name words of which an image shows one, as --alternatives red,blue,green"
        )
    for kind in kinds:
        if given and (len(set(kind)) < 2 or not all(value.strip() for value in kind)):
            raise QueryError(
                f"--alternatives {','.join(kind)!r} names fewer than two values: name words of "
                "which an image shows one, as red,blue,green"
            )


def _audited(samples: Sequence[Sample], losses: Losses) -> Audited:
    """The findings of one kind. Captions that name several of its values are left out."""
    seen = losses.told_apart()
    unseen = tuple(v for v, is_seen in zip(losses.values, seen, strict=True) if not is_seen)
    values = tuple(value for value in losses.values if value not in unseen)
    if len(values) < 2:
        return Audited((), losses.values, 0, (), ())
    mean, named = losses.losses.mean(0)[:, seen], losses.named[:, seen]
    clean = losses.named.sum(1) <= 1
    says = named.float().argmax(1)
    own = mean.gather(1, says[:, None])[:, 0]
    rival, sees = mean.scatter(1, says[:, None], torch.inf).min(1)
    margins = rival - own  # above 0 the model agrees
    agrees = clean & named.any(1) & (margins > 0)
    typical = margins[agrees].median().item() if agrees.any() else 1.0
    first, second = mean.topk(2, largest=False).values.unbind(1)

    def finding(row: int, said: str, sees: int, margin: Tensor) -> Finding:
        return Finding(row, samples[row], said, values[sees], margin.item() / typical)

    doubted = (clean & named.any(1) & (margins < 0)).nonzero()[:, 0].tolist()
    silent = (clean & ~named.any(1) & (second - first > SURE * typical)).nonzero()[:, 0].tolist()
    best = mean.argmin(1)
    wrong = [finding(i, values[int(says[i])], int(sees[i]), -margins[i]) for i in doubted]
    unsaid = [finding(i, _said(losses, i), int(best[i]), second[i] - first[i]) for i in silent]
    return Audited(values, unseen, int(agrees.sum()), tuple(wrong), tuple(unsaid))


def _said(losses: Losses, row: int) -> str:
    """The value that a caption names, though the model does not tell it apart; "" for none."""
    return next((v for v, n in zip(losses.values, losses.named[row], strict=True) if n), "")


def _strongest(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda each: (-each.strength, each.row))


def _remarks(kinds: Sequence[Audited], found: Sequence[Losses], chosen: int) -> list[str]:
    said = []
    unseen = [value for kind in kinds for value in kind.unseen]
    if unseen:
        named = ", ".join(map(repr, unseen))
        said.append(
            f"The model takes {named} for anything of the kind, or seldom sees it where it is "
            "named: such captions are not doubted, and count as saying nothing"
        )
    several = sum(int((losses.named.sum(1) > 1).sum()) for losses in found)
    if several:
        said.append(
            f"{several:,} captions name several values of a kind, and are not judged by that kind"
        )
    if chosen > len(kinds):
        said.append(f"Of {chosen} kinds of words the {len(kinds)} most frequent were looked at")
    return said
