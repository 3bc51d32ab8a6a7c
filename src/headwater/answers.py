"""Answers on disk: the query's picture, contact sheets, every score, and one report to read."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from headwater.attribution import Attribution, Ranked
from headwater.denoiser import Denoiser
from headwater.errors import StoreError
from headwater.files import write_image, write_table, write_tensors, write_text
from headwater.probes import sample, seeded_noise
from headwater.report import Answer, Entry, contact_sheet, html_report

# Parts of an attribution's provenance that differ between the concepts of one prompt.
_PER_CONCEPT = ("query", "reused_query_gradient", "seconds")


@dataclass(frozen=True)
class Drawn:
    """The picture that the prompt and the seed give, and what it was made from."""

    image: Image.Image
    noise: Float[Tensor, "1 c h w"]
    latents: Float[Tensor, "1 c h w"]
    guidance: float
    steps: int


def draw_query(
    denoiser: Denoiser, prompt: str, seed: int, guidance: float, steps: int = 50
) -> Drawn:
    """Draw the prompt by DDIM with classifier-free guidance."""
    noise = seeded_noise(denoiser.latent_shape, seed, "query")[None]
    condition, unconditional = (denoiser.encode_captions([text]) for text in (prompt, ""))
    start = noise.to(denoiser.device, denoiser.dtype)
    x0 = sample(denoiser, start, condition, unconditional, steps=steps, guidance=guidance)
    return Drawn(denoiser.decode(x0)[0], noise, x0.float().cpu(), guidance, steps)


def write_answers(
    out: Path, attributions: Sequence[Attribution], drawn: Drawn, top: int = 10
) -> dict[str, Any]:
    """Write the folder `out` and return the answer as one JSON-ready object.

    Holds `query.png`, `query.safetensors` (noise, latents), `report.html`, and for each concept a
    folder with `top.png`, `bottom.png`, `scores.parquet` and `result.json`.

    Raises:
        StoreError: `out` cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_image(out / "query.png", drawn.image)
    except OSError as error:
        raise StoreError(f"cannot write to {out}: {error.strerror or error}") from None
    write_tensors(out / "query.safetensors", {"noise": drawn.noise, "latents": drawn.latents}, {})
    first = attributions[0]
    provenance = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "headwater": metadata.version("headwater"),
        "torch": torch.__version__,
        "device": str(first.index.denoiser.device),
        **{k: v for k, v in first.provenance.items() if k not in _PER_CONCEPT},
        "picture": {"guidance": drawn.guidance, "steps": drawn.steps, "seed": first.query.seed},
    }
    answers, results = [], []
    for attribution, folder in zip(attributions, _folders(attributions), strict=True):
        answer = _answer(attribution, top)
        result = to_json(attribution, top)
        try:
            _write_concept(out / folder, attribution, answer, {**result, "provenance": provenance})
        except OSError as error:
            raise StoreError(f"cannot write to {out / folder}: {error.strerror or error}") from None
        answers.append(answer)
        results.append(result)
    report = html_report(
        prompt=first.query.prompt,
        method=first.method,
        answers=answers,
        query_image=drawn.image,
        provenance={
            **provenance,
            "query": {a.query.concept: a.provenance["query"] for a in attributions},
        },
    )
    write_text(out / "report.html", report)
    return {
        "index": str(first.index.path),
        "prompt": first.query.prompt,
        "method": first.method,
        "results": results,
        "provenance": provenance,
        "out": str(out),
    }


def to_json(attribution: Attribution, top: int) -> dict[str, Any]:
    """One concept's part of the JSON answer."""

    def listed(entries: Sequence[Ranked]) -> list[dict[str, Any]]:
        return [{k: v for k, v in asdict(entry).items() if k != "row"} for entry in entries]

    query = attribution.query
    return {
        "concept": query.concept,
        "plus": query.prompt,
        "minus": query.complement,
        "context": attribution.contexts.description,
        "top": listed(attribution.top(top)),
        "bottom": listed(attribution.bottom(top)),
        **{name: attribution.provenance[name] for name in _PER_CONCEPT},
    }


def _answer(attribution: Attribution, top: int) -> Answer:
    def entries(ranked: Sequence[Ranked]) -> list[Entry]:
        image = attribution.index.image
        return [Entry(r.rank, r.id, r.score, r.caption, r.uri, image(r.row)) for r in ranked]

    query = attribution.query
    in_prompt = attribution.contexts.kind == "prompt"
    return Answer(
        concept=query.concept,
        plus=query.prompt if in_prompt else "",
        minus=query.complement if in_prompt else "",
        context="" if in_prompt else f"Asked {attribution.contexts.description}.",
        top=entries(attribution.top(top)),
        bottom=entries(attribution.bottom(top)),
        scores=attribution.scores.tolist(),
    )


def _write_concept(
    folder: Path, attribution: Attribution, answer: Answer, result: dict[str, Any]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    said = f"{attribution.method}, asked {attribution.contexts.description}"
    title = f"Proponents of “{answer.concept}”"
    sheet = contact_sheet(answer.top, title=title, subtitle=said)
    write_image(folder / "top.png", sheet)
    title = f"Opponents of “{answer.concept}”"
    sheet = contact_sheet(answer.bottom, title=title, subtitle=said)
    write_image(folder / "bottom.png", sheet)
    samples = attribution.index.samples
    rank = (-attribution.scores).argsort(kind="stable").argsort() + 1
    table = pa.table({
        "id": [s.id for s in samples],
        "score": attribution.scores,
        "rank": rank,
        "caption": [s.caption for s in samples],
        "uri": [s.uri for s in samples],
    })  # fmt: skip
    write_table(folder / "scores.parquet", table)
    write_text(folder / "result.json", json.dumps(result, indent=1, ensure_ascii=False))


def slug(text: str) -> str:
    """A file name that still reads like the text."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:60] or "query"


def _folders(attributions: Sequence[Attribution]) -> list[str]:
    """A folder name for each concept, numbered where two would be the same."""
    names: list[str] = []
    for attribution in attributions:
        name = slug(attribution.query.concept)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return names
