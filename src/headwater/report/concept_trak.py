"""Answers laid out as the published Concept-TRAK code leaves them (`qual.py` of that repository).

A folder for each question, named like theirs after what it was asked with. Of their files those
are written that PyTorch's pickles are no part of; noise and latents are in `query.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headwater.attribution.answer.result import Attribution, Ranked
from headwater.attribution.pictures import making_of, write_picture
from headwater.attribution.resources import Resources
from headwater.methods.choice import measure, method_named
from headwater.report.export import (
    PER_QUESTION,
    Shown,
    ends,
    entries,
    shared_provenance,
    to_json,
)
from headwater.report.sheets.contact_sheet import contact_sheet
from headwater.report.wording import WORDING
from headwater.storage.files import (
    changing,
    distinct_names,
    remove_abandoned,
    write_array,
    write_jpeg,
    write_text,
)

# Their lambdas are multiples of 0.1 mean eigenvalues, ours of one.
PUBLISHED_DAMPING = 0.1


def write_concept_trak(
    resources: Resources,
    attributions: Sequence[Attribution],
    out: str | Path,
    *,
    guidance: float = 5.0,
    top: int = 10,
) -> dict[str, Any]:
    """Write a folder for each question into `out`, and return the answer as `write_answers` does.

    Holds `query.png`, `query.safetensors` (noise, latents), at each damping
    `topk-lambda_*.jpg` and `topk-prompts-lambda_*.txt`, `metrics.json`, and `concept_grad.npy`
    (float32, [1, k]) where the question has a feature. `*` is lambda in tenths of the mean
    eigenvalue.

    Args:
        resources: the session that answered.
        attributions: answers to questions of one prompt or picture.
        guidance: of the picture that stands for questions without one.
        top: how many images are ranked; near-copies are not grouped, as there.

    Raises:
        StoreError: `out` cannot be written.

    Example:
        answers = session.attribute([Concept("a red star", "star")], damping=(0.1, 1.0))
        write_concept_trak(session, answers, "as-published", top=50)
    """
    out, first = Path(out), attributions[0]
    picture = resources.picture_of(first.query, guidance)
    origin = shared_provenance(first, making_of(picture, first.query))
    for attribution, name in zip(attributions, folders(attributions), strict=True):
        folder = out / name
        write_picture(folder, picture)
        with changing(folder):
            _write_question(folder, attribution, top, origin)
        remove_abandoned(folder)
    return {
        "index": str(first.index.path),
        "prompt": first.query.prompt,
        "method": first.method,
        "results": [to_json(each, ends(each, top)) for each in attributions],
        "provenance": origin,
        "out": str(out),
    }


def _write_question(
    folder: Path, attribution: Attribution, top: int, origin: dict[str, Any]
) -> None:
    for lamb, scores in _sweep(attribution).items():
        ranked = replace(attribution, scores=scores).top(top)
        write_jpeg(folder / f"topk-lambda_{lamb}.jpg", _sheet(attribution, ranked))
        write_text(folder / f"topk-prompts-lambda_{lamb}.txt", _listing(attribution, ranked))
    if attribution.feature is not None:
        write_array(folder / "concept_grad.npy", attribution.feature[None].astype(np.float32))
    metrics = _metrics(attribution, top, origin)
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2, ensure_ascii=False))


def _sweep(attribution: Attribution) -> dict[str, np.ndarray]:
    """Scores by their lambda as file names have it, "none" where the rule has no kernel."""
    damping = attribution.provenance["damping"]
    if damping is None:
        return {"none": attribution.scores}
    sweep = attribution.sweep or {damping: attribution.scores}
    return {_scientific(ratio / PUBLISHED_DAMPING): scores for ratio, scores in sweep.items()}


def _scientific(lamb: float) -> str:
    """As they write it, `1.0e+00`; with more digits where one would not tell it from another."""
    forms = (f"{lamb:.{digits}e}" for digits in range(1, 17))
    return next(form for form in forms if math.isclose(float(form), lamb, rel_tol=1e-9))


def _sheet(attribution: Attribution, ranked: Sequence[Ranked]) -> Any:
    index, sure = attribution.index, attribution.certainty
    images = [Shown(each, index.image(each.row)) for each in ranked]
    called = WORDING[measure(attribution.method)].top
    return contact_sheet(
        entries(images, sure),
        title=f"{called}: {attribution.query.name().words}",
        subtitle=f"{attribution.method}, asked {attribution.asked}",
    )


def _listing(attribution: Attribution, ranked: Sequence[Ranked]) -> str:
    """A heading, then rank from 0, "train", row in the data, and caption (else id), by tabs."""
    rows = attribution.index.positions
    lines = [
        "\t".join([str(each.rank - 1), "train", str(rows[each.row]), each.caption or each.id])
        for each in ranked
    ]
    return "\n".join(["TopK", *lines]) + "\n"


def _metrics(attribution: Attribution, top: int, origin: dict[str, Any]) -> dict[str, Any]:
    """Their keys of a free query; what else is known stands under `headwater`."""
    query, facts = attribution.query, attribution.provenance["query"]
    pairs = facts.get("contexts", [])
    prompt, minus = pairs[0] if len(pairs) == 1 else (query.prompt, None if pairs else "")
    rows = attribution.index.positions
    ranked = [
        {"row": rows[each.row], "id": each.id, "score": each.score} for each in attribution.top(top)
    ]
    return {
        "mode": "free_query",
        "prompt": prompt,
        "negative_prompt": minus,
        "seed": query.seed,
        "lamb_r_list": [float(lamb) for lamb in _sweep(attribution) if lamb != "none"],
        "num_train": len(attribution.scores),
        "top_k": top,
        "headwater": {
            "question": query.kind,
            **query.facts(),
            "method": attribution.method,
            "asked": attribution.asked,
            "top": ranked,
            **{name: attribution.provenance[name] for name in PER_QUESTION},
            "provenance": origin,
        },
    }


# --- names of folders -----------------------------------------------------------------------------


def folders(attributions: Sequence[Attribution]) -> list[str]:
    """A folder name for each question, numbered where two would be the same."""
    return distinct_names([_name(attribution) for attribution in attributions])


def _name(attribution: Attribution) -> str:
    """Prompt, digest of it, target, and what it was asked with; of pictures in files their stem."""
    query, recipe = attribution.query, attribution.index.recipe
    about = query.prompt or Path(str(getattr(query, "file", None) or "")).stem
    digest = hashlib.sha1(about.encode(), usedforsecurity=False).hexdigest()[:10]
    target = f"-target_{_slug(query.title, 32)}" if query.kind != "image" else ""
    of_rows = (recipe.parameters, recipe.train_delta or recipe.train_path)
    side = "-".join(_slug(each, 32) for each in of_rows if each)
    asked = method_named(attribution.method).asks(query.kind)
    drawn = asked is not None and asked.path == "generation"
    made = (
        f"{_slug(about, 48)}-{digest}{target}-{side}-train_gs_{recipe.inversion_guidance}"
        f"{'-test_gs_1.0-eta_0.0' if drawn else ''}-seed_{query.seed}"
    )
    norm = "-norm" if recipe.normalise == "probe" else ""
    return f"{made}{norm}{'-ddim' if recipe.train_path == 'inversion' else ''}"


def _slug(text: str, longest: int) -> str:
    """Letters and digits of `text` in lower case, joined by hyphens."""
    return re.sub(r"[\W_]+", "-", text.lower()).strip("-")[:longest].strip("-") or "prompt"
