"""`headwater import`: rows that another program wrote become an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headwater.cli.options import CaptionColumn, ImageColumn, Limit, Split, images_of
from headwater.runtime.console import printable, say


def import_rows(
    folder: Annotated[
        Path, typer.Argument(help="Of train_grad-0.npy, ...; becomes the index.", metavar="ROWS")
    ],
    data: Annotated[str, typer.Argument(help="The images of the rows, in their order.")],
    method: Annotated[
        str | None, typer.Option(help="That made them; default by the name of the folder.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(help="Features in a row; default by their header, else 32768.")
    ] = None,
    model: Annotated[str, typer.Option(help="Its name, for the record; it is not loaded.")] = "",
    split: Split = "train",
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    limit: Limit = None,
) -> None:
    """Rows of the published Concept-TRAK code, as an index.

    They stay as they are, train_grad-0.npy and on; beside them lies what makes them an index, which
    `headwater concept --feature` asks.
    """
    from headwater.index.published import import_rows

    images = images_of(data, split, image_column, caption_column, limit)
    index = import_rows(folder, images, method=method, dim=dim, model=model, note=say)
    print(printable(f"{len(index)} rows of {index.recipe.dim} features in {folder}"))
