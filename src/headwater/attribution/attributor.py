"""Query + index -> attribution: the query's draws, the kernel, the scores, how sure they are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwater.attribution.bootstrap import certainty
from headwater.attribution.kernel import Kernel
from headwater.attribution.provenance import provenance
from headwater.attribution.result import Attribution
from headwater.attribution.scorers.prepared import Prepared, prepare
from headwater.attribution.scores import NO_KERNEL, RULES, Scored, mean_of
from headwater.attribution.session import spectrum_of
from headwater.errors import NonFiniteError, QueryError
from headwater.features.extractor import Extractor
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.index.index import Index
from headwater.methods import Method, choose
from headwater.queries.draws import draw_rows
from headwater.queries.query import Drawer, Question

DAMPING = 0.1
# `draws=None` doubles the draws from the first to the most until the top ten is this stable.
FIRST_DRAWS, STABLE = 16, 0.9


def attribute(
    index: Index,
    query: Question,
    *,
    method: str | None = None,
    damping: float | Sequence[float] = DAMPING,
    candidates: str | None = None,
    fresh: bool = False,
    note: Callable[[str], None] = lambda line: None,
) -> Attribution:
    """Score every training image of `index` for `query`.

    The query's gradient is kept in the index by content and used again, unless `fresh`.

    Args:
        method: one that the index serves; by default the one that it was built for, or the first
            that takes such a question.
        damping: lambda as a multiple of the kernel's mean eigenvalue. Of several the first
            answers, and `sweep` holds the scores of all.
        candidates: "clip:COUNT" or "pixel:COUNT": only so many images, the most similar to the
            query by cosine, compete; all others rank below them, with the scores that they have.
        note: is told what the user may want to know: draws spent, options without effect.

    Raises:
        MethodError: no such method, it cannot take the query, or the index does not serve it.
        MismatchError: the model has changed since the index was built.
    """
    start = time.perf_counter()
    chosen = choose(method, index.recipe.method, index.methods(), query.kind)
    dampings = _dampings(damping, chosen, note)
    prepared = prepare(index, chosen, query)
    among = None if candidates is None else prepared.nearest(candidates)
    if among is not None and len(among) == len(index):
        among = None
    answer = _answer(index, chosen, prepared, query.draws, dampings, among, fresh, note)
    scores = {ratio: _finite(query, each) for ratio, each in answer.scored.items()}
    sure = certainty(answer.scored[dampings[0]], among=among)
    unsure = "" if sure is not None else prepared.once or "there was one draw"
    if sure is None and answer.draws == 1 and query.draws not in (1, DRAWS):
        note(f"{query.title}: {unsure}, so --draws has no effect")
    asked, details = prepared.describe(answer.draws)
    made = {**details, "draws": answer.draws, "seed": query.seed}
    return Attribution(
        query,
        asked,
        chosen.name,
        scores[dampings[0]],
        index,
        {
            **provenance(index, chosen, made, dampings, candidates),
            "reused_query_gradient": answer.reused,
            "seconds": round(time.perf_counter() - start, 2),
        },
        sure,
        scores if len(dampings) > 1 else {},
        None if among is None else tuple(among),
        unsure,
    )


def require_damping(damping: float) -> None:
    """Refuse what is no damping.

    Raises:
        QueryError: it is below 0, infinite or no number.
    """
    if not 0 <= damping < float("inf"):
        raise QueryError(f"--damping {damping} must be a number from 0 up")


def _dampings(
    damping: float | Sequence[float], method: Method, note: Callable[[str], None]
) -> list[float]:
    """Those to answer at, each once; a rule without a kernel has no more than one answer."""
    dampings: list[float] = [*damping] if isinstance(damping, Sequence) else [damping]
    for each in dampings:
        require_damping(each)
    if method.rule in NO_KERNEL and dampings != [DAMPING]:
        note(f"{method.name} has no kernel, so --damping has no effect")
        return [DAMPING]
    return dampings


def _finite(query: Question, scored: Scored) -> Float[np.ndarray, " n"]:
    scores = scored.answer()[0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"{query.title!r} scored NaN or infinite: raise --damping")
    return scores


# --- scores by draws ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    scored: dict[float, Scored]
    draws: int
    reused: bool = False


def _answer(
    index: Index,
    method: Method,
    prepared: Prepared,
    draws: int | None,
    dampings: Sequence[float],
    among: Sequence[int] | None,
    fresh: bool,
    note: Callable[[str], None],
) -> _Answer:
    """Scores at every damping: of a method without features, of one row, or of draws."""
    if prepared.scores is not None:
        return _Answer(dict.fromkeys(dampings, Scored(prepared.scores())), prepared.draws)
    members = index.members()
    if prepared.drawer is None:
        assert prepared.row is not None
        rows = [prepared.row(member) for member in members]
        return _Answer(_scored(members, method, rows, dampings), 1)
    machines = [member.machine() for member in members]
    psi: list[list[Tensor]] = [[] for _ in members]
    reused = []
    for part in _parts(draws, prepared.drawer):
        for member, machine, rows in zip(members, machines, psi, strict=True):
            made, there = _rows(member, machine, prepared.drawer, part, fresh)
            rows.append(made)
            reused.append(there)
        scored = _scored(members, method, [torch.cat(rows) for rows in psi], dampings)
        sure = certainty(scored[dampings[0]], among=among) if draws is None else None
        if sure is not None and (sure.stability >= STABLE or part.stop >= MOST_DRAWS):
            note(
                f"{prepared.drawer.title}: {part.stop} draws, on average an image of the top "
                f"{sure.k} stays there in {sure.stability:.0%} of resamples"
            )
            break
    if all(reused):
        title = prepared.drawer.title
        note(f"{title}: using the query gradient computed before (--fresh recomputes)")
    return _Answer(scored, part.stop, all(reused))


def _parts(draws: int | None, drawer: Drawer) -> list[range]:
    """The draws to make, part by part; those after the first only if needed."""
    if drawer.limit is not None:
        return [range(drawer.limit)]
    if draws is not None:
        return [range(draws)]
    stops = [FIRST_DRAWS]
    while stops[-1] < MOST_DRAWS:
        stops.append(2 * stops[-1])
    return [range(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]


def _rows(
    index: Index, machine: Extractor, drawer: Drawer, draws: range, fresh: bool
) -> tuple[Tensor, bool]:
    model = index.manifest.model
    identity = json.dumps([model["fingerprint"], model["dtype"], index.recipe.query_facts()])
    return draw_rows(machine, drawer, draws, index.queries, identity, fresh)


def _scored(
    members: Sequence[Index], method: Method, psi: Sequence[Tensor], dampings: Sequence[float]
) -> dict[float, Scored]:
    """The rule's scores, the mean over checkpoints, each with features and kernel of its own."""
    rule = RULES[method.rule]
    kernels = [_kernel(member, method) for member in members]
    return {
        ratio: mean_of(
            rule(replace(kernel, damping=ratio), rows)
            for kernel, rows in zip(kernels, psi, strict=True)
        )
        for ratio in dampings
    }


def _kernel(index: Index, method: Method) -> Kernel:
    """The kernel of one checkpoint, before a damping is chosen."""
    spectrum = None if method.rule in NO_KERNEL else spectrum_of(index)
    return Kernel(index.blocks, spectrum, 0.0, len(index), index.residuals())
