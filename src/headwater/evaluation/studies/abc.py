"""Attribution by Customization (AbC, Wang et al. 2023): are exemplars found again in a large pool?

A model is taught something that it never saw, from a few exemplars, and makes pictures of it. It
is known which images taught it that. Hidden in a pool of images that did not, they must come first.
Concept-TRAK (5.1, D.1) keeps the model as it is and learns a token alone, by textual inversion.

The published code scores exemplars by a kernel of the pool alone, counts hits / min(10, e), and
takes for each question the best of nine dampings (`best_recall`); gradients of exemplars have the
sign opposite to those of the pool there. Here all rows come from one function and have one sign;
the kernel is what one asks for (`kernel_scores`).

What `run_download.sh` of the published Concept-TRAK code leaves is read as it is (`data/abc`):

    json/CASE.json            for each test case a list of concepts, whose `exemplar` is a list of
                              paths that begin with `dataset/`, which stands for the folder
    exemplar/.../images/...   the exemplars
    synth/.../samples/*.png   the queries' pictures, made by fine-tuned models
    models/.../               these models, each with the token's embedding
    laion_subset/             the pool, 100,000 images: `images/`, and `captions.txt` with a line
                              for each, which `load_dataset` reads
    laion_latents.npy, laion_text_embeddings.npy    the same encoded; not read

The list of 400 queries, `all_tasks.json`, is no part of it: it comes with the code of the benchmark
(Attribute by Unlearning, `custom_diffusion/tasks/`). Nor are tokens of textual inversion and their
pictures, `models-ti/` and `synth-ti/` of that code, which makes them.

Read here are that list and `json/`. Exemplars of one's own are asked about in the same way:
`experiments/exemplars.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from headwater.attribution.session import Session
from headwater.errors import MethodError, QueryError, first_line
from headwater.evaluation.metrics.intervals import interval
from headwater.evaluation.metrics.retrieval import capped_recall_at
from headwater.evaluation.studies.method_indexes import asks_by_captions
from headwater.evaluation.studies.method_scores import QuestionOptions
from headwater.methods.row import Method
from headwater.queries.concept import Concept
from headwater.queries.image import Image

_TOKEN = re.compile(r"<[^<>\s]+>")
_FIELDS = ("synth_image_path", "prompt", "test_case", "model_path", "train_prompt", "category")


@dataclass(frozen=True)
class Query:
    """A picture of something learned from exemplars.

    Attributes:
        picture: its path in the benchmark's folder.
        prompt: what it was made from; holds the token.
        token: the word that was learned, "<new1>".
        taught: the prompt under which it was learned.
        category: what it is one of ("turtle"), a word to begin from.
        case, concept: of which part of the benchmark, and which of the things learned there.
        exemplars: their paths in the folder; none where `json/` is not there.
    """

    picture: str
    prompt: str
    token: str
    taught: str
    category: str
    case: str
    concept: str
    exemplars: tuple[str, ...] = ()

    @property
    def minus(self) -> str:
        """The prompt without the token: c- of the concept query (Concept-TRAK D.1)."""
        return " ".join(self.prompt.replace(self.token, " ").split())


def read_queries(path: Path, folder: Path | None = None) -> list[Query]:
    """The queries of a task file such as `all_tasks.json`.

    An entry has `synth_image_path`, `prompt`, `test_case` and `test_case_ind` (which concept of
    `json/CASE.json`), `model_path` (whose last part names the concept), `train_prompt`, `category`.

    Args:
        path: the file, or the benchmark's folder with `all_tasks.json` in it.
        folder: the benchmark's; default where the file lies.

    Raises:
        QueryError: unreadable, or an entry is not made like that.
    """
    if path.is_dir():
        path = path / "all_tasks.json"
        if not path.is_file():
            raise QueryError(
                f"there is no {path}: copy it there from the code of the benchmark, its data come "
                "without it"
            )
    folder = path.parent if folder is None else folder
    entries = _read(path)
    cases = {
        case: _read(file)
        for case in {entry["test_case"] for entry in entries if _is_task(entry)}
        if (file := folder / "json" / f"{case}.json").is_file()
    }
    return [_parse_query(f"{path} entry {i}", entry, cases) for i, entry in enumerate(entries, 1)]


def _read(path: Path) -> list[Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QueryError(
            f"cannot read {str(path)!r} ({first_line(error)}): give a task file of the AbC "
            "benchmark"
        ) from None
    if not isinstance(entries, list) or not entries:
        raise QueryError(f"{path} is no list of entries: give a task file of the AbC benchmark")
    return entries


def _is_task(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(name), str) for name in _FIELDS)
        and isinstance(entry.get("test_case_ind"), int)
        and entry["test_case_ind"] >= 0
    )


def _parse_query(where: str, entry: Any, cases: Mapping[str, Sequence[Any]]) -> Query:
    if not _is_task(entry):
        raise QueryError(f"{where} needs {', '.join(_FIELDS)} as texts, test_case_ind as a number")
    token = _TOKEN.search(entry["train_prompt"])
    if token is None or token[0] not in entry["prompt"]:
        raise QueryError(f"{where}: prompt and train_prompt must hold one token, such as <new1>")
    case, number = entry["test_case"], entry["test_case_ind"]
    exemplars: Sequence[str] = ()
    if case in cases:
        try:
            exemplars = cases[case][number]["exemplar"]
        except (IndexError, KeyError, TypeError):
            raise QueryError(
                f"{where}: json/{case}.json has no exemplars of a concept {number}"
            ) from None
    return Query(
        entry["synth_image_path"],
        entry["prompt"],
        token[0],
        entry["train_prompt"],
        entry["category"],
        case,
        Path(entry["model_path"]).name,
        tuple(path.removeprefix("dataset/") for path in exemplars),
    )


# --- what is asked --------------------------------------------------------------------------------


def exemplar_question(
    method: Method, query: Query, options: QuestionOptions, folder: Path | None = None
) -> Concept | Image:
    """The token, in its prompt alone (Concept-TRAK D.1): c+ is the prompt, c- the same without it.

    Methods that do not ask the model for concepts (a CLIP does not know the token) are asked about
    the picture: the query's, in `folder`, or where it has none the one that the model makes of the
    prompt. No other contexts: the captions that hold the token are the exemplars' own.

    Raises:
        MethodError: the method asks by captions, which would give the exemplars away.
    """
    if asks_by_captions(method):
        raise MethodError(
            f"{method.name} asks by captions, and those that hold {query.token} are the "
            "exemplars': leave it out"
        )
    side = method.asks("concept")
    if "concept" in method.takes and side is not None and side.path == "generation":
        return Concept(
            query.prompt,
            query.token,
            minus=query.minus,
            context="prompt",
            draws=options.draws,
            seed=options.seed,
        )
    file = folder / query.picture if folder is not None and query.picture else None
    return Image(
        query.prompt, file, draws=options.draws, seed=options.seed, guidance=options.guidance
    )


# --- what is counted ------------------------------------------------------------------------------


def hidden_recall(
    pool: Float[np.ndarray, " n"], exemplars: Float[np.ndarray, " e"], k: int = 10
) -> float:
    """Capped recall@k of exemplars among a pool: hits / min(k, e), from the scores of both.

    As the published code counts (`influence.py`): of more than k exemplars (13 in one case) all
    could never be among the first k. In a tie the pool comes first.
    """
    truth = np.zeros(len(pool) + len(exemplars), bool)
    truth[len(pool) :] = True
    return capped_recall_at(np.concatenate([pool, exemplars]), truth, k)


KERNELS = ("of all", "of the pool", "corrected")
# Their `lamb_r_list` of nine, in mean eigenvalues of the kernel where theirs are tenths of it.
DAMPINGS = tuple(0.1 * 10.0**power for power in range(-4, 5))


def kernel_scores(
    session: Session,
    psi: Float[np.ndarray, "q k"],
    hidden: Collection[str],
    dampings: Sequence[float] = DAMPINGS,
) -> dict[str, dict[float, Float[np.ndarray, "q n"]]]:
    """Scores of all images by the rule `trak`, by each of `KERNELS` at each damping.

    "of all": exemplars are rows of the kernel, and shrunk by their part in it. "of the pool": they
    are not, as published, and it is the pool's rows alone that are shrunk. "corrected": the same,
    each of the pool's rows by its score without it, s / (1 - h), so that all are scored alike.

    Args:
        psi: the questions' own features, `Attribution.feature`.
        hidden: ids of the exemplars.

    Raises:
        QueryError: an id is none of the index's.
    """
    rows = torch.from_numpy(psi)
    pool, found = session.kernel_without(hidden), {name: {} for name in KERNELS}
    of_all, of_pool = session.kernel().trak(rows, dampings), pool.trak(rows, dampings)
    for ratio, whole, scores in zip(dampings, of_all, of_pool, strict=True):
        found["of all"][ratio] = whole.numpy()
        found["of the pool"][ratio] = scores.numpy()
        found["corrected"][ratio] = (scores / (1 - pool.leverage(ratio))).numpy()
    return found


def recall_rows(queries: Sequence[Query], recalls: Sequence[float]) -> list[dict[str, Any]]:
    """Mean recall of each test case and of all, with 95% intervals over concepts.

    Queries of one concept share their exemplars and so are no independent draws: each concept
    counts by its mean.
    """
    by_concept: dict[tuple[str, str], list[float]] = {}
    for query, recall in zip(queries, recalls, strict=True):
        by_concept.setdefault((query.case, query.concept), []).append(recall)
    means = {key: float(np.mean(values)) for key, values in by_concept.items()}

    def row(name: str, of: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {
            "case": name,
            "concepts": len(of),
            "queries": sum(len(by_concept[key]) for key in of),
            "recall": interval([means[key] for key in of]),
        }

    cases = list(dict.fromkeys(case for case, _ in means))
    rows = [row(case, [key for key in means if key[0] == case]) for case in cases]
    return [*rows, row("all", list(means))]
