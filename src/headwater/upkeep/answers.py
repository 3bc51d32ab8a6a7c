"""Answers on disk: are they of this index and as they were written? And all scores as one table."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.errors import ParameterError, StoreError, first_line
from headwater.index.index import Index
from headwater.storage.files import read_json, renamed, sha256_of, write_tables
from headwater.storage.manifest import (
    Manifest,
    checkpoint_folders,
    read_manifest,
    rows_digest,
)
from headwater.upkeep.remove import removal_facts

RESULTS = ("result.json", "journey.json")
SCORES = "scores.parquet"
# What a spreadsheet would take for a formula, where a caption begins so.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_answer(index: str | Path, result: str | Path) -> list[str]:
    """How an answer differs from the index that it should be of, a line each; none if nowhere.

    Compared are the fingerprints of model and images, the recipe, a digest of all rows, which
    images were removed, and the checksums of the files beside the answer. That the index itself is
    as it was written is for `verify`.

    Args:
        result: `result.json` or `journey.json` of an answer.

    Raises:
        StoreError: either cannot be read, or the answer says nothing that could be compared.

    Example:
        differences = check_answer("my-index", "answers/star/result.json")
    """
    folder, file = Path(index), Path(result)
    said = read_result(file)
    manifest = read_manifest(folder)
    differences = [*_of_index(said["provenance"], folder, manifest)]
    return [*differences, *_of_files(said["files"], file.parent)]


def read_result(file: Path) -> Mapping[str, Any]:
    """What an answer's JSON says.

    Raises:
        StoreError: it is none, or of an earlier headwater that wrote no checksums.
    """
    try:
        said = read_json(file)
        provenance, files = said["provenance"], said["files"]
        if not all(isinstance(each, dict) for each in (provenance, files)):
            raise TypeError("its provenance is no object")
        for name in ("model", "data", "recipe", "rows"):
            provenance[name]
    except FileNotFoundError:
        names = " or ".join(RESULTS)
        raise StoreError(f"there is no {file}: give the {names} of an answer") from None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{file} is no answer that could be compared ({type(error).__name__}: "
            f"{first_line(error)}): ask the question again"
        ) from None
    return said


def _of_index(said: Mapping[str, Any], folder: Path, manifest: Manifest) -> Iterator[str]:
    models = [manifest, *map(read_manifest, checkpoint_folders(folder, manifest))]
    now = {
        "the model": (said["model"].get("fingerprint"), manifest.model["fingerprint"]),
        "the images": (said["data"].get("fingerprint"), manifest.data["fingerprint"]),
        "the rows": (said["rows"], list(map(rows_digest, models))),
        "removed images": (
            _removals(said.get("removed")),
            _removals(removal_facts(Index.open(folder))),
        ),
    }
    for what, (before, after) in now.items():
        if before != after:
            yield f"{what}: {_short(before)} in the answer, {_short(after)} in the index"
    recipe = json.loads(json.dumps(manifest.recipe))
    for key in sorted(said["recipe"].keys() | recipe.keys()):
        if said["recipe"].get(key) != recipe.get(key):
            before, after = _short(said["recipe"].get(key)), _short(recipe.get(key))
            yield f"the recipe's {key}: {before} in the answer, {after} in the index"


def _of_files(checksums: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for name, checksum in checksums.items():
        path = folder / Path(name).name
        if not path.is_file():
            yield f"{path.name} is missing beside the answer"
        elif sha256_of(path) != checksum:
            yield f"{path.name} has changed since the answer was written"


def _removals(facts: Any) -> Any:
    """How many, and what tells the others."""
    if not isinstance(facts, dict):
        return facts or "none"
    rest = facts.get("fingerprint of the rest")
    return f"{facts.get('images')} (rest: {rest})" if facts else "none"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# --- as one table --------------------------------------------------------------------------------


def export_answers(folder: str | Path, out: str | Path) -> int:
    """Write the scores of all answers in a folder as one table; returns how many rows it has.

    Columns: `question`, the name of an answer's own folder; then those of `scores.parquet` (`id`,
    `score`, `rank`, ...). In CSV, a text that a spreadsheet would take for a formula has an
    apostrophe before it.

    Args:
        folder: of an answer, as `write_answers` and `write_journey` leave it.
        out: a file that ends in .csv, .json (one object for each row, in a list) or .parquet.

    Raises:
        StoreError: there are no answers, or something cannot be read or written.
        ParameterError: `out` ends otherwise.

    Example:
        export_answers("headwater-answers/star-0-1a2b3c", "scores.csv")
    """
    folder, out = Path(folder), Path(out)
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise ParameterError(f"{out} must end in {', '.join(_WRITERS)}")
    found = [folder] if (folder / SCORES).exists() else []
    found += sorted(path.parent for path in folder.glob(f"*/{SCORES}"))
    if not found:
        raise StoreError(f"there is no {SCORES} in {folder}: give the folder of an answer")
    try:
        schema = pa.unify_schemas([_schema(each) for each in found])
        counts = [pq.ParquetFile(each / SCORES).metadata.num_rows for each in found]
        write(out, schema, _tables(found, schema))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"cannot export {folder} ({first_line(error)}): ask again") from None
    return sum(counts)


def _schema(folder: Path) -> pa.Schema:
    return pq.read_schema(folder / SCORES).insert(0, pa.field("question", pa.string()))


def _tables(folders: Iterable[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    """Some rows at a time, each with all columns; what an answer has not is null."""
    for folder in folders:
        for batch in pq.ParquetFile(folder / SCORES).iter_batches():
            own = {name: batch.column(name) for name in batch.schema.names}
            columns = {"question": pa.array([folder.name] * len(batch)), **own}
            rows = [columns.get(f.name, pa.nulls(len(batch), f.type)) for f in schema]
            yield pa.table(rows, schema=schema)


def _to_parquet(out: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    write_tables(out, tables)


def _to_csv(out: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with renamed(out) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for table in tables:
            for row in zip(*table.to_pydict().values(), strict=True):
                writer.writerow(map(_cell, row))


def _cell(value: Any) -> Any:
    formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if formula else value


def _to_json(out: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with renamed(out) as part, part.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for table in tables:
            for row in table.to_pylist():
                file.write(separator + json.dumps(row, ensure_ascii=False))
                separator = ",\n"
        file.write("\n]\n")


_Writer = Callable[[Path, pa.Schema, Iterable[pa.Table]], None]
_WRITERS: dict[str, _Writer] = {".csv": _to_csv, ".json": _to_json, ".parquet": _to_parquet}
