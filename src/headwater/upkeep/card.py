"""The card of an index that is copied to others: what it is, how it is asked, what is in it."""

from __future__ import annotations

import json
from pathlib import Path

from headwater.index.curvature.origin import origin_of
from headwater.methods.choice import served_by, side_of, usual_ask
from headwater.queries.outputs.output import asked_as
from headwater.storage.manifest import Manifest

_CARD = """\
---
pretty_name: {title}
tags:
- headwater
- data-attribution
- diffusion
configs:
- config_name: samples
  data_files: samples.parquet
---

# {title}

An index of [headwater](https://pypi.org/project/headwater/): one row of features for each of {rows}
training images of a diffusion model. With the model it answers which of these images taught the
model a concept that one of its pictures shows.

    pip install headwater
    headwater concept {url} "a prompt" --concept "words of it"

or in Python

    from headwater import {question}, Index

    index = Index.from_pretrained({quoted})
    answer = index.attribute({question}("a prompt", "words of it"))

| | |
|---|---|
| methods | {methods} |
| model | {model} |
| model fingerprint | `{model_fingerprint}` |
| training images | {data} |
| their fingerprint | `{data_fingerprint}` |
| rows | {rows} of {dim:,} features{fitted} |
| parameters | {parameters} ({layers} layers) |
| made by | {versions} |

It holds ids, captions and places of the training images, and no picture. Features are random
projections of gradients: nobody has shown that an image can be made again of them, nor that it
cannot. The model{own} and the images{own_images} are not part of it; whoever asks needs the model,
and the images to see them in an answer.

`headwater verify` checks every file against its checksum.
"""


def card_of(folder: Path, manifest: Manifest, url: str) -> str:
    """In Markdown, with the head that a hub reads.

    Example:
        text = card_of(Path("my-index"), read_manifest(Path("my-index")), "s3://bucket/my-index")
    """
    recipe, model, data = manifest.recipe, manifest.model, manifest.data
    origin = origin_of(manifest)
    served = served_by(
        side_of(recipe),
        recipe["normalise"],
        1 + manifest.checkpoints,
        recipe.get("curvature", ""),
        "run" in model.get("options", {}),
    )
    asked = usual_ask(None, recipe["method"], served)
    return _CARD.format(
        question=asked_as(asked).__name__,  # as the command asks
        title=f"Index of {_name(model['source'])}, {_name(data['source'])}",
        rows=f"{manifest.rows:,}",
        fitted="" if origin is None else f"; their curvature is {origin.line(data['rows'])}",
        url=url,
        quoted=json.dumps(url),
        methods=", ".join(f"`{name}`" for name in served),
        model=_place(model["source"]),
        model_fingerprint=model["fingerprint"][:16],
        data=_place(data["source"]),
        data_fingerprint=data["fingerprint"][:16],
        dim=recipe["dim"],
        parameters=f"`{recipe['parameters']}`",
        layers=len(recipe["layers"]),
        versions=", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        own=_private(model["source"]),
        own_images=_private(data["source"]),
    )


def _name(source: str) -> str:
    """Of a place its last part; "a model" of what was in memory."""
    return Path(source).name or "what was in memory"


def _place(source: str) -> str:
    """Of a folder of this machine, which is nobody else's business, its name alone."""
    return f"`{_name(source)}`" if Path(source).is_absolute() else f"`{source or '(in memory)'}`"


def _private(source: str) -> str:
    return " (a folder of whoever made it)" if Path(source).is_absolute() else ""
