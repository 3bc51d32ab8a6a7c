"""UNets of images that read a class, by its number or a label that the pipeline knows."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from headwater.errors import ModelError
from headwater.models.families.cross.labels import Labels
from headwater.models.families.family import AS_SAVED, Reading
from headwater.models.families.unets.unet import Unet


class ClassUnet(Unet):
    """See `family.Family`."""

    handled = ("class_embed_type", "num_class_embeds")

    def __init__(self, pipe: Any, reading: Reading = AS_SAVED) -> None:
        config = pipe.unet.config
        if config.class_embed_type not in (None, "timestep"):
            raise ModelError(
                f"{type(pipe).__name__} is not supported: its network wants an embedding for a "
                f"class: class_embed_type is {config.class_embed_type!r}"
            )
        super().__init__(pipe, reading)
        # of "timestep" any number is a class, and this is the largest that tensors hold
        count = config.num_class_embeds if config.class_embed_type is None else sys.maxsize
        self._labels = dict(getattr(pipe, "labels", {}))
        self.words = Labels(pipe.unet, count, self._labels)

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """A UNet of images with an embedding for classes."""
        unet = getattr(pipe, "unet", None)
        return (
            type(unet).__name__ == "UNet2DModel"
            and getattr(unet, "class_embedding", None) is not None
        )

    def encoding_facts(self) -> Mapping[str, Any]:
        """Labels too."""
        return {**super().encoding_facts(), "labels": self._labels}
