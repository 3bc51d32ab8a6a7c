"""What is known of each row of an index: its id, captions and place, and columns of its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from headwater.data.sources import load_dataset
from headwater.errors import DatasetError, QueryError
from headwater.index.index import Index

# Fields that every index has; any other name is one of a column of its data.
FIELDS = {
    "id": lambda sample: (sample.id,),
    "caption": lambda sample: sample.all_captions,
    "uri": lambda sample: (sample.uri,),
    "folder": lambda sample: (str(PurePosixPath(sample.id).parent),),
}


def values_of(index: Index, field: str) -> Iterator[tuple[str, ...]]:
    """What each row has in a field, in their order; several captions are several values.

    Args:
        field: "id", "caption", "uri", "folder" (of the id, "." where it names none), or a column
            (of metadata files, a key) of the data that the index was built from, which is opened
            again. Rows that are not there any more have "".

    Raises:
        QueryError: the data has no such column, or it is no text.
        DatasetError: the data is not at its recorded source any more.
    """
    if field in FIELDS:
        return map(FIELDS[field], index.samples)
    data = index.manifest.data
    options = {**data["options"], "caption_column": field}
    options.pop("trigger", None)  # which would stand before each value
    try:
        found = load_dataset(data["source"], **options)
    except DatasetError as error:
        load_dataset(data["source"], **data["options"])  # if this fails too, it says why
        raise QueryError(
            f"the images of {index.path} have no text {field!r}: name a column of their data, or "
            f"one of {', '.join(FIELDS)} ({error})"
        ) from None
    there = {sample.id: sample.all_captions for sample in found.samples}
    return (there.get(sample.id, ("",)) for sample in index.samples)
