"""`samples.parquet`: which image of the data set each row of an index is of; and which set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from headwater.data.training_set import Sample, TrainingSet
from headwater.errors import StoreError, first_line
from headwater.storage.files import sha256_of, write_table
from headwater.storage.manifest import Manifest

_FILE = "samples.parquet"


class RowSamples(NamedTuple):
    """What each row is of, and which row of the data set that is."""

    samples: Sequence[Sample] = ()
    positions: Sequence[int] = ()

    def chosen(self, inside: Sequence[bool]) -> RowSamples:
        """Those rows for which it says yes."""
        samples, positions = self
        return RowSamples(list(compress(samples, inside)), list(compress(positions, inside)))


def data_facts(data: TrainingSet) -> dict[str, Any]:
    """What `index.json` says of the images."""
    return {
        "source": data.source,
        "options": dict(data.options),
        "fingerprint": data.fingerprint,
        "rows": len(data),
    }


def write_samples(folder: Path, rows: RowSamples) -> None:
    """Write the table; columns of all captions and of repeats only where an image has several."""
    samples = rows.samples
    repeats = [sample.repeats for sample in samples]
    several = [list(sample.captions) for sample in samples]
    table = pa.table({
        "row": rows.positions,
        "id": [sample.id for sample in samples],
        "caption": [sample.caption for sample in samples],
        "uri": [sample.uri for sample in samples],
        **({"captions": pa.array(several, pa.list_(pa.string()))} if any(several) else {}),
        **({"repeats": repeats} if any(each != 1 for each in repeats) else {}),
    })  # fmt: skip
    write_table(folder / _FILE, table)


def read_samples(folder: Path, manifest: Manifest) -> RowSamples:
    """The table of a finished index.

    Raises:
        StoreError: it is missing, damaged, or not what the manifest says.
    """
    try:
        if sha256_of(folder / _FILE) != manifest.samples_sha256:
            raise ValueError("its checksum differs from index.json")
        # not `read_table`, which imports `pyarrow.dataset`, and that pandas
        with pq.ParquetFile(folder / _FILE) as file:
            table = file.read().to_pydict()
        positions, *columns = (table[name] for name in ("row", "id", "caption", "uri"))
        several = map(tuple, table.get("captions", [()] * len(positions)))
        repeats = table.get("repeats", [1] * len(positions))
        if len(positions) != manifest.rows:
            raise ValueError(f"{len(positions)} rows, not {manifest.rows}")
    except MemoryError:  # Arrow's is an ArrowException too
        raise
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{folder / _FILE} cannot be read ({first_line(error)}): "
            f"`headwater repair {folder}` writes it again"
        ) from None
    samples = [Sample(*each) for each in zip(*columns, several, repeats, strict=True)]
    return RowSamples(samples, positions)


def count_repeats(folder: Path) -> dict[int, int]:
    """How many images of a finished index were seen how often; empty where each was seen once.

    A file that cannot be read says nothing here, and what is wrong with it in `read_samples`.
    """
    try:
        with pq.ParquetFile(folder / _FILE) as file:
            if "repeats" not in file.schema_arrow.names:
                return {}
            column = file.read(["repeats"]).column(0)
    except (OSError, pa.ArrowException):
        return {}
    return dict(sorted(Counter(column.to_pylist()).items()))
