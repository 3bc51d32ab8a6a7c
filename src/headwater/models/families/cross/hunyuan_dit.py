"""HunyuanDiT: a diffusion transformer that reads a prompt of BERT and of T5.

Up to version 1.1 it also reads the size that a picture came with, the size and the place of what
was cut from it (`headwater.models.fitting`), and a style of which there is one; a question is asked
at the model's own size, uncut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from headwater.models.condition import Condition
from headwater.models.families.diffusions import DiffusionTransformer, timesteps
from headwater.models.families.family import Replacement
from headwater.models.families.words import device_of
from headwater.models.fitting import Fit
from headwater.models.schedule import Timestep

_PLACES = 64  # latents of a side, at whose places the pipeline's waves stand


class HunyuanDiT(DiffusionTransformer):
    """See `family.Family`."""

    kind = "HunyuanDiT2DModel"
    token_limits = {"tokenizer": 77, "tokenizer_2": 256}  # noqa: RUF012 - constants of the pipeline

    def forward(
        self,
        network: nn.Module,
        xt: Float[Tensor, "b c h w"],
        t: Timestep,
        condition: Condition | None,
    ) -> Float[Tensor, "b c h w"]:
        """The noise; learned variances come after it."""
        assert condition is not None, "it reads words"
        timestep = timesteps(xt, t).to(xt.dtype)  # whose type the network goes on in
        # which it views as one row, and rows that were repeated are no such thing
        tensors = {name: tensor.contiguous() for name, tensor in condition.tensors.items()}
        out = network(xt, timestep, image_rotary_emb=self._waves(xt), **tensors).sample
        return out[:, : xt.shape[1]]

    def placed(self, condition: Condition, fits: Sequence[Fit]) -> Condition:
        """The same with each picture's own sizes, if the network reads them."""
        return replace(condition, tensors={**condition.tensors, **self._sizes(fits, condition)})

    def faster(self, network: nn.Module, layers: Sequence[nn.Module]) -> Iterator[Replacement]:
        """Gates; and what takes a batch of prompts as one, or never calls its layers."""
        yield from super().faster(network, layers)
        parts: Any = network
        length = self.pipe.transformer.config.text_len_t5
        yield parts.text_embedder, partial(_row_by_row, parts.text_embedder, length)
        pool = parts.time_extra_emb.pooler
        # adapters of what is never called do nothing, and must not begin to
        if all(type(layer) is nn.Linear for layer in pool.children()):
            yield pool, partial(_pooled, pool)

    def encode(self, pipe: Any, texts: list[str]) -> Condition:
        """BERT's words and T5's, and which of them are there."""
        tensors = {}
        for index, suffix in enumerate(("", "_t5")):
            words, _, mask, _ = pipe.encode_prompt(
                texts,
                device_of(pipe),
                do_classifier_free_guidance=False,
                text_encoder_index=index,
            )
            tensors[f"encoder_hidden_states{suffix}"] = words
            tensors[f"text_embedding_mask{suffix}"] = mask
        whole = Fit(self.image_size, (0, 0), self.image_size)
        return self.placed(Condition(tensors), [whole] * len(texts))

    def _sizes(self, fits: Sequence[Fit], condition: Condition) -> dict[str, Tensor]:
        network: Any = self.network
        if not network.config.use_style_cond_and_image_meta_size:
            return {}
        own = condition.tensors["encoder_hidden_states"]
        sizes = torch.tensor([[*fit.original, *fit.size, *fit.cut] for fit in fits]).to(own)
        style = torch.zeros(len(fits), dtype=torch.long, device=own.device)
        return {"image_meta_size": sizes, "style": style}

    def _waves(self, xt: Tensor) -> Any:
        """Where each token is, as the pipeline says it."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import (
            get_resize_crop_region_for_grid,
        )

        network: Any = self.network
        patch = network.config.patch_size
        grid = xt.shape[2] // patch, xt.shape[3] // patch
        return get_2d_rotary_pos_embed(
            network.inner_dim // network.num_heads,
            get_resize_crop_region_for_grid(grid, _PLACES // patch),
            grid,
            device=xt.device,
            output_type="pt",
        )


def _row_by_row(layer: Any, length: int, x: Float[Tensor, "bt i"]) -> Float[Tensor, "bt o"]:
    """What the module says of the words of a batch, prompt by prompt."""
    return type(layer).forward(layer, x.unflatten(0, (-1, length))).flatten(0, 1)


def _pooled(pool: Any, x: Float[Tensor, "b t i"]) -> Float[Tensor, "b o"]:
    """What the pool says, which hands its layers' weights to a function."""
    x = torch.cat([x.mean(1, keepdim=True), x], 1) + pool.positional_embedding.to(x.dtype)
    query, key, value = (
        layer(tokens).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
        for layer, tokens in ((pool.q_proj, x[:, :1]), (pool.k_proj, x), (pool.v_proj, x))
    )  # [b, heads, tokens, width]
    mixed = F.scaled_dot_product_attention(query, key, value)
    return pool.c_proj(mixed.transpose(1, 2).flatten(1))
