"""Stable Diffusion XL and its refiner: UNets that also read a picture's size and where it was cut.

Beside the two encoders' words they read a pooled encoding and `time_ids`: of the base the original
height and width, what was cut off above and at the left, and the height and width that are left;
of the refiner an aesthetic score in the place of the last two. Training took each picture's own
(`headwater.models.fitting`), and so do the rows of training images; a question is asked at the
model's own size, uncut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.models.condition import Condition
from headwater.models.families.unets.unet import Unet
from headwater.models.families.words import device_of
from headwater.models.fitting import Fit
from headwater.models.schedule import Timestep

# What the pipelines take where nothing is said.
_AESTHETIC_SCORE = 6.0


class Sdxl(Unet):
    """See `family.Family`."""

    usual_layer = 2
    handled = ("addition_embed_type", "text_encoder_2", "tokenizer_2")

    @classmethod
    def takes(cls, pipe: Any) -> bool:
        """A UNet with `time_ids`, and the second text encoder that makes the pooled encoding."""
        config = getattr(getattr(pipe, "unet", None), "config", {})
        kind = config.get("addition_embed_type") if hasattr(config, "get") else None
        return kind == "text_time" and getattr(pipe, "text_encoder_2", None) is not None

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """What the network predicts."""
        assert condition is not None, "it reads words"
        tensors = dict(condition.tensors)
        words = tensors.pop("encoder_hidden_states")
        told = self.guidance(xt)
        return network(xt, t, encoder_hidden_states=words, added_cond_kwargs=tensors, **told).sample

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The same with each picture's own sizes."""
        own = condition.tensors["time_ids"]
        ids = torch.tensor([self._time_ids(fit) for fit in fits])
        return replace(condition, tensors={**condition.tensors, "time_ids": ids.to(own)})

    def _encode(self, pipe: Any, texts: list[str]) -> Condition:
        """Both encodings; the empty prompt is zeros where the pipeline says so, as in training."""
        words, _, pooled, _ = pipe.encode_prompt(
            prompt=texts,
            device=device_of(pipe),
            do_classifier_free_guidance=False,
            clip_skip=self._skipped or None,
        )
        if pipe.config.get("force_zeros_for_empty_prompt", True):
            said = torch.tensor([bool(text) for text in texts], device=words.device)
            words, pooled = words * said[:, None, None], pooled * said[:, None]
        whole = Fit(self.image_size, (0, 0), self.image_size)
        ids = torch.tensor([self._time_ids(whole)] * len(texts)).to(pooled)
        return Condition({"encoder_hidden_states": words, "text_embeds": pooled, "time_ids": ids})

    def _time_ids(self, fit: Fit) -> list[float]:
        network: Any = self.network
        width = network.add_embedding.linear_1.in_features
        width -= self.pipe.text_encoder_2.config.projection_dim
        count = width // network.config.addition_time_embed_dim
        last = fit.size if count == 6 else (_AESTHETIC_SCORE,)
        return [float(number) for number in (*fit.original, *fit.cut, *last)]
