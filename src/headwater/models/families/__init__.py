"""The families of models. Nothing outside this folder knows which one it deals with.

The table names classes without importing them, so that the names of their parameters (`sets.py`)
can be shown in a moment.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from headwater.errors import ModelError

if TYPE_CHECKING:
    from headwater.models.families.family import Family

# Family -> where its class is. The first that takes a pipeline has it.
FAMILIES = {
    "sdxl": "headwater.models.families.unets.sdxl:Sdxl",
    "sd3": "headwater.models.families.joint.sd3:Sd3",
    "flux": "headwater.models.families.joint.flux:Flux",
    "z-image": "headwater.models.families.joint.z_image:ZImage",
    "qwen-image": "headwater.models.families.joint.qwen_image:QwenImage",
    "flux2": "headwater.models.families.joint.flux2:Flux2",
    "chroma": "headwater.models.families.joint.chroma:Chroma",
    "lumina2": "headwater.models.families.joint.lumina2:Lumina2",
    "wan": "headwater.models.families.cross.wan:Wan",
    "pixart": "headwater.models.families.cross.pixart:PixArt",
    "sana": "headwater.models.families.cross.sana:Sana",
    "hunyuan-dit": "headwater.models.families.cross.hunyuan_dit:HunyuanDiT",
    "dit": "headwater.models.families.cross.dit:DiT",
    "class-unet": "headwater.models.families.unets.classes:ClassUnet",
    "aura-flow": "headwater.models.families.joint.aura_flow:AuraFlow",
    "unet": "headwater.models.families.unets.unet:Unet",
}


def family_of(pipe: Any, **options: Any) -> Family:
    """The family of a pipeline, bound to it.

    Args:
        options: of a `Reading`; None is as the pipeline was saved.

    Raises:
        ModelError: it is no pipeline, of no family in the table, or the family refuses it.
    """
    from headwater.models.families.family import Reading

    reading = Reading(**options)
    for place in FAMILIES.values():
        module, _, name = place.partition(":")
        family: type[Family] = getattr(import_module(module), name)
        if family.takes(pipe):
            for option, value in options.items():
                if value is not None and option not in ("resolution", *family.readings):
                    raise reading.refused(pipe, option)
            return family(pipe, reading)
    raise ModelError(_refusal(pipe))


def name_of(family: Family) -> str:
    """Of a family, in the table."""
    kind = f"{type(family).__module__}:{type(family).__name__}"
    return next(name for name, place in FAMILIES.items() if place == kind)


def _refusal(pipe: Any) -> str:
    from torch import nn

    name = type(pipe).__name__
    if isinstance(pipe, str) or hasattr(pipe, "__fspath__"):
        return f"{str(pipe)!r} is a name, not a pipeline: give Denoiser.load({str(pipe)!r})"
    if isinstance(pipe, nn.Module):
        return f"{name} is a network, not a pipeline: give the pipeline that it is part of"
    return (
        f"{name} is not supported: headwater takes diffusers pipelines of the families "
        f"{', '.join(FAMILIES)} (`unet` is Stable Diffusion 1 and 2, LCM, LDM, DDPM, DDIM)"
    )
