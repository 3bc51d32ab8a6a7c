"""What a model and images are, before anything is computed: in a moment, and without weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

from headwater.data.sizes import picture_sizes
from headwater.data.training_set import Captions, TrainingSet, repeats_line
from headwater.errors import ParameterError
from headwater.gradients.layers import size
from headwater.gradients.parameters import COMMON_SETS, left_out
from headwater.models.denoiser import Denoiser
from headwater.models.families import name_of
from headwater.models.fitting import bucket_of
from headwater.models.loading.options import normal
from headwater.models.loading.pipelines import outline

Size = tuple[int, int]  # (height, width)
_SHOWN, _BUCKETS_SHOWN = 4, 40  # sizes of pictures
_PREDICTIONS = {
    "epsilon": "noise", "v_prediction": "v", "sample": "the sample", "flow": "a flow",
}  # fmt: skip


def inspect_model(
    model: str | Path, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[dict[str, Any], Denoiser]:
    """What a model is and what of it would be attributed; and the model, without numbers.

    Args:
        model: as `Denoiser.load` takes it.
        dtype: of its weights, which are not read.
        options: of `Denoiser.load`.

    Raises:
        ModelError: there is no such model, or it is not supported.

    >>> facts, _ = inspect_model("scenes")
    >>> facts["family"], facts["predicts"], facts["pictures"]
    ('unet', 'noise, at 1,000 timesteps', '64 x 64 pixels, latents 4 x 16 x 16')
    """
    known = normal(options)
    denoiser = Denoiser(outline(model, known), str(model), "meta", dtype, **known)
    family, schedule, words = denoiser.family, denoiser.schedule, denoiser.family.words
    parts = {"network": denoiser.network, **family.encoders}
    total = sum(_numel(part) for part in parts.values())
    height, width = denoiser.image_size
    latents = " x ".join(map(str, denoiser.latent_shape))
    given = {name: value for name, value in known.items() if name != "resolution"}
    facts = {
        "model": str(model),
        **given,
        "family": name_of(family),
        "pipeline": type(denoiser.pipe).__name__,
        "network": f"{type(denoiser.network).__name__}, {_numel(denoiser.network):,} numbers",
        "encoders": ", ".join(type(part).__name__ for part in family.encoders.values()) or "none",
        "weights (MB)": round(total * dtype.itemsize / 1e6, 1),
        "predicts": f"{_PREDICTIONS[schedule.prediction]}, at {len(schedule):,} timesteps",
        "pictures": f"{height} x {width} pixels, latents {latents}",
        "prompts": f"up to {words.token_limit} tokens" if words else "none",
    }
    return facts | _sets(denoiser), denoiser


def _sets(denoiser: Denoiser) -> dict[str, str]:
    """The sets of parameters that the network has layers of, the default first."""
    usual = denoiser.default_parameters()
    names = dict.fromkeys([usual, *denoiser.family.parameter_sets, *COMMON_SETS])
    found = {}
    for name in names:
        try:
            layers = denoiser.layers(name)
        except ParameterError:  # of none
            continue
        numbers = f"{sum(map(size, layers.values())):,} numbers in {len(layers)} layers"
        found[f"--parameters {name}"] = numbers + (", taken by default" if name == usual else "")
    lost = left_out(denoiser.network, mixed=denoiser.family.mixed)
    if lost:
        share = sum(part.numel for part in lost) / _numel(denoiser.network)
        found["never attributed"] = (
            f"{sum(part.numel for part in lost):,} numbers ({share:.1%}) in no layer with "
            f"gradients of each sample, such as {lost[0].name}"
        )
    return found


def inspect_images(data: TrainingSet, denoiser: Denoiser) -> dict[str, Any]:
    """What training images are, as this model would see them; sizes by a sample of many.

    Args:
        denoiser: the model; of `inspect_model`, or any.

    >>> from headwater import load_dataset
    >>> _, denoiser = inspect_model("scenes")
    >>> facts = inspect_images(load_dataset("scenes").first(40), denoiser)
    >>> facts["images"], facts["sizes"], facts["cut off"]
    (40, '64 x 64 (all)', 'nothing')
    """
    sizes = picture_sizes(data)
    whole = [size for size in sizes.values() if size is not None]
    damaged = [id for id, size in sizes.items() if size is None]
    looked = "" if len(sizes) == len(data) else f" of {len(sizes):,} looked at"
    return {
        "data": data.source,
        "images": len(data),
        "captions": _captions(data, denoiser),
        **_repeats(data),
        "sizes": _counted(whole) + looked,
        **_buckets(whole, denoiser, looked),
        "cut off": _cut(whole, [_seen(size, denoiser) for size in whole]),
        **({"damaged": f"{len(damaged)}{looked}, such as {damaged[0]}"} if damaged else {}),
    }


def _repeats(data: TrainingSet) -> dict[str, str]:
    counts = Counter(sample.repeats for sample in data.samples)
    return {} if set(counts) == {1} else {"repeats": repeats_line(counts)}


def _captions(data: TrainingSet, denoiser: Denoiser) -> str:
    without = sum(not sample.caption for sample in data.samples)
    several = sum(bool(sample.captions) for sample in data.samples)
    parts = [f"of {len(data) - without:,} images" if without else "of all images"]
    if without == len(data):
        parts = ["none"] + (["which the model was trained with"] if denoiser.conditional else [])
    if several:
        parts.append(f"several of {several:,}")
    cut = denoiser.cut_prompts(Captions(data.samples))
    if cut:
        parts.append(f"{len(cut):,} longer than the model reads")
    return ", ".join(parts)


def _counted(sizes: list[Size], most: int = _SHOWN) -> str:
    """The most frequent sizes (height x width), and how many of each."""
    counts = Counter(sizes).most_common(most)
    if len(set(sizes)) == 1:
        height, width = sizes[0]
        return f"{height} x {width} (all)"
    shown = [f"{height} x {width} ({count:,})" for (height, width), count in counts]
    more = len(set(sizes)) - len(counts)
    return ", ".join(shown) + (f" and {more:,} other sizes" if more else "")


def _buckets(sizes: list[Size], denoiser: Denoiser, looked: str) -> dict[str, str]:
    """How many pictures would be seen at which size, where there are several."""
    if not denoiser.buckets:
        return {}
    used = _counted([_seen(size, denoiser) for size in sizes], _BUCKETS_SHOWN)
    return {"buckets used": used + looked}


def _seen(size: Size, denoiser: Denoiser) -> Size:
    """(height, width) at which the model sees a picture of this one."""
    return bucket_of(size, denoiser.buckets) or denoiser.image_size


def _cut(sizes: list[Size], seen: list[Size]) -> str:
    """How much of pictures is lost where they are cut to the shape that is seen."""
    shapes = [(w / h, width / height) for (h, w), (height, width) in zip(sizes, seen, strict=True)]
    lost = [1 - min(own / cut, cut / own) for own, cut in shapes]
    if not lost or max(lost) < 0.005:
        return "nothing"
    return f"{median(lost):.0%} of the middle picture, {max(lost):.0%} of the worst"


def _numel(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())
