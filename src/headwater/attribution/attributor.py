"""Question + index -> attribution: the method's scorer, and how sure its scores are."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from headwater.attribution.answer.bootstrap import certainty
from headwater.attribution.answer.groups import GroupBy, Grouping, group_scores, grouping_of
from headwater.attribution.answer.left_out import left_out_score, others, rows_left_out
from headwater.attribution.answer.provenance import provenance
from headwater.attribution.answer.result import Attribution
from headwater.attribution.candidates import nearest_rows, scored_candidates
from headwater.attribution.resources import Resources
from headwater.attribution.scorers.scoring import Scoring, ScoringOptions
from headwater.attribution.scorers.table import SCORERS, TOGETHER
from headwater.attribution.scores import Scored, has_damping
from headwater.errors import HeadwaterWarning, MethodError, NonFiniteError, QueryError
from headwater.features.spec import DRAWS, MOST_DRAWS
from headwater.index.conditions import rows_of_ids, rows_where
from headwater.index.index import Index
from headwater.methods.choice import choose
from headwater.methods.row import Method
from headwater.queries.concept import Concept
from headwater.queries.feature import Feature
from headwater.queries.outputs.output import Output
from headwater.queries.query import Question

# Scores of draws that stand in memory at once, of questions that are answered together: 1 GB.
AT_ONCE = 250_000_000


@dataclass(frozen=True)
class Options:
    """How a question is answered.

    Args:
        method: one that the index serves; by default the one that it was built for, or the first
            that takes such a question.
        damping: lambda as a multiple of the kernel's mean eigenvalue (of methods with a curvature,
            of the mean moment of each layer's); None for the method's usual one. Of several the
            first answers, and `Attribution.sweep` holds the scores of all.
        candidates: "clip:COUNT" or "pixel:COUNT": only so many images, the most similar to the
            query by cosine, compete; all others rank below them, with the scores that they have.
            "presence:COUNT": those in which the model sees the concept most surely.
        where: conditions, each "FIELD [not] contains|is|matches VALUE" (`index.conditions`); only
            images that fulfil all of them compete, and candidates are chosen among these.
        among: ids, or a file with one on each line: only these compete.
        left_out: ids that do not compete; `Attribution.left_out` is what they score together.
        group_by: how images are grouped for `Attribution.groups` (`answer.groups.grouping_of`).
        fresh: compute the query's gradient again. It is kept by content otherwise.
        note: is told what the user may want to know: draws spent, options without effect.

    >>> Options(damping=(0.01, 0.1), where=["caption contains star"]).where
    ['caption contains star']
    """

    method: str | None = None
    damping: float | Sequence[float] | None = None
    candidates: str | None = None
    where: Sequence[str] = ()
    among: Sequence[str] | Path | None = None
    left_out: Sequence[str] = ()
    group_by: GroupBy | None = None
    fresh: bool = False
    note: Callable[[str], None] = lambda line: None


class _Asked(NamedTuple):
    """A question, and how it is to be answered."""

    query: Question
    method: Method
    options: ScoringOptions
    grouping: Grouping | None
    left_out: Sequence[int]


def attribute(resources: Resources, query: Question, options: Options) -> Attribution:
    """Score every training image of an index for a question.

    Raises:
        QueryError: it is no question, or makes no sense for this index.
        MethodError: no such method, it cannot take the query, or the index does not serve it.
        MismatchError: the model has changed since the index was built.
        NonFiniteError: a gradient or a score is NaN, infinite or zero.
    """
    return attribute_all(resources, [query], options)[0]


def attribute_all(
    resources: Resources, queries: Sequence[Question], options: Options
) -> list[Attribution]:
    """The same of several questions, which share a pass over the index where they can.

    Raises:
        QueryError, MethodError, MismatchError, NonFiniteError: as `attribute`, of any of them.
    """
    by, index = options.group_by, resources.index
    grouping = None if by is None else grouping_of(index, by)
    rows = _chosen(index, options), rows_left_out(index, options.left_out)
    asked = [_prepared(resources, query, options, rows, grouping) for query in queries]
    idle = dict.fromkeys(resources.idle_workers(each.method) for each in asked)
    for line in filter(None, idle):
        options.note(f"{line}, so --engine and --jobs have no effect")
    answers: list[Attribution] = []
    for part in _together(asked, len(index)):
        start, first = time.perf_counter(), part[0]
        score_all = TOGETHER.get(first.method.scorer)
        if len(part) == 1 or score_all is None:
            query, method, how, *_ = first
            scorings = [SCORERS[method.scorer](resources, method, query, how)]
        else:
            pairs = [(each.query, each.options) for each in part]
            scorings = score_all(resources, first.method, pairs)
        seconds = (time.perf_counter() - start) / len(part)
        for each, scoring in zip(part, scorings, strict=True):
            answers.append(_answer(resources, each, scoring, options, seconds))
    return answers


def _prepared(
    resources: Resources,
    query: Question,
    options: Options,
    rows: tuple[list[int] | None, list[int]],
    grouping: Grouping | None,
) -> _Asked:
    """Its method, and the images that compete; `rows` are those chosen, and those left out."""
    require_question(query)
    index = resources.index
    method = choose(options.method, index.recipe.method, index.methods(), query.kind)
    _require_alternatives_of_use(query, method, options)
    dampings = _dampings(method, options)
    among = _competing(resources, query, options.candidates, rows[0])
    how = ScoringOptions(dampings, among, options.fresh, options.note)
    return _Asked(query, method, how, grouping, rows[1])


def _together(asked: Sequence[_Asked], rows: int) -> Iterator[list[_Asked]]:
    """Questions one after the other, those of one method together as memory allows."""
    part: list[_Asked] = []
    numbers = 0
    for each in asked:
        own = (each.query.draws or MOST_DRAWS) * rows * len(each.options.dampings)
        kinds = {_kind(each), *map(_kind, part)}
        if part and (None in kinds or len(kinds) > 1 or numbers + own > AT_ONCE):
            yield part
            part, numbers = [], 0
        part.append(each)
        numbers += own
    if part:
        yield part


def _kind(asked: _Asked) -> str | None:
    """The method of questions that can be answered together; None for one that stands alone."""
    alone = asked.method.scorer not in TOGETHER or isinstance(asked.query, Feature)
    return None if alone else asked.method.name


def _answer(
    resources: Resources, asked: _Asked, scoring: Scoring, options: Options, seconds: float
) -> Attribution:
    """The attribution of a question that was scored."""
    query, method, how, grouping, left_out = asked
    dampings = how.dampings
    for remark in scoring.remarks:
        warnings.warn(remark, HeadwaterWarning, stacklevel=6)
    among = scored_candidates(how.among, scoring.among)
    if left_out:
        among = others(among or range(len(resources.index)), left_out)
    scores = {ratio: _finite(query, each) for ratio, each in scoring.scored.items()}
    sure = certainty(scoring.scored[dampings[0]], among=among)
    unsure = "" if sure is not None else scoring.once or "there was one draw"
    if sure is None and scoring.draws == 1 and query.draws not in (1, DRAWS):
        options.note(f"{query.title}: {unsure}, so --draws has no effect")
    attribution = Attribution(
        query,
        scoring.description.words,
        method.name,
        scores[dampings[0]],
        resources.index,
        {
            **provenance(resources, method, _query_facts(query, scoring), dampings),
            **_candidate_facts(resources, options),
            "reused_query_gradient": scoring.cached,
            "seconds": round(seconds, 2),
        },
        sure,
        scores if len(dampings) > 1 else {},
        None if among is None else tuple(among),
        unsure,
        scoring.remarks,
        None if scoring.feature is None else scoring.feature.numpy(),
    )
    scored, rows = next(iter(scoring.scored.values())), attribution.competing
    out = left_out_score(scored, left_out, rows.tolist()) if left_out else None
    groups = () if grouping is None else group_scores(grouping, scored, rows)
    return replace(attribution, groups=groups, left_out=out)


def require_damping(damping: Any) -> None:
    """Refuse what is no damping.

    Raises:
        QueryError: it is below 0, infinite or no number.
    """
    if not isinstance(damping, Real) or not 0 <= float(damping) < float("inf"):
        raise QueryError(f"--damping {damping!r} must be a number from 0 up")


def require_question(query: Any) -> None:
    """Refuse what is no question, before it is taken apart.

    Raises:
        QueryError: names the value and its type.
    """
    if not isinstance(query, Question):
        raise QueryError(
            f"{query!r} is a {type(query).__name__}, no question: give a Concept, Image, Local, "
            "Reward or Preference"
        )


def _require_alternatives_of_use(query: Question, method: Method, options: Options) -> None:
    """Refuse alternatives that nothing would look at."""
    given = isinstance(query, Concept | Output) and query.alternatives is not None
    by_presence = (options.candidates or "").startswith("presence")
    if given and method.scorer not in ("presence", "with_presence") and not by_presence:
        other = "ekfac-presence" if isinstance(query, Output) else "presence"
        raise MethodError(
            f"{method.name} tells a concept from no alternatives: leave --alternatives out, or ask "
            f"--method {other}"
        )


def _dampings(method: Method, options: Options) -> tuple[float, ...]:
    """Those to answer at, each once; a rule without a kernel has no more than one answer."""
    given = method.damping if options.damping is None else options.damping
    dampings: tuple[Any, ...] = (given,)
    if isinstance(given, Sequence) and not isinstance(given, str):
        dampings = tuple(given)
    for damping in dampings:
        require_damping(damping)
    if not has_damping(method) and dampings != (method.damping,):
        options.note(f"{method.name} has no kernel, so --damping has no effect")
        return (method.damping,)
    return dampings


def _chosen(index: Index, options: Options) -> list[int] | None:
    """The rows that may compete by conditions and ids; None where all may.

    Raises:
        QueryError: none does.
    """
    if not options.where and options.among is None:
        return None
    rows = rows_where(index, options.where)
    if options.among is not None:
        ids = set(rows_of_ids(index, options.among))
        rows = [row for row in rows if row in ids]
    if not rows:
        raise QueryError(f"no image of {index.path} is left by --where and --among")
    return rows


def _competing(
    resources: Resources, query: Question, candidates: str | None, chosen: list[int] | None
) -> list[int] | None:
    """The rows that compete; None where all do."""
    rows = chosen
    if candidates is not None:
        rows = nearest_rows(resources, query, candidates, chosen)
    return None if rows is None or len(rows) == len(resources.index) else rows


def _finite(query: Question, scored: Scored) -> Float[np.ndarray, " n"]:
    scores = scored.answer()[0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"{query.title!r} scored NaN or infinite: raise --damping")
    return scores


def _query_facts(query: Question, scoring: Scoring) -> dict[str, object]:
    return {**scoring.description.facts, "draws": scoring.draws, "seed": query.seed}


def _candidate_facts(resources: Resources, options: Options) -> dict[str, object]:
    """Which images competed; by CLIP, the model that chose them is named."""
    facts: dict[str, object] = {"candidates": options.candidates}
    if options.where:
        facts["where"] = list(options.where)
    if options.among is not None:
        ids = options.among
        facts["among"] = str(ids) if isinstance(ids, Path) else f"{len(set(ids)):,} ids"
    if options.left_out:
        facts["left out"] = sorted(set(options.left_out))
    if (options.candidates or "").startswith("clip"):
        clip = resources.clip()
        facts["candidates by"] = {"source": clip.source, "fingerprint": clip.fingerprint()}
    if options.group_by is not None:
        named = not isinstance(options.group_by, Mapping)
        facts["grouped by"] = str(options.group_by) if named else "names of ids"
    return facts
