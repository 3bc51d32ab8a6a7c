r"""A diffusers pipeline seen as one function, out(x_t, t, c).

Names follow the papers: x0 is a clean latent, xt its noisy version at integer timestep t. What the
network predicts of the two (noise, v, the sample, a flow) its `schedule` knows, and makes x0hat and
noise of it: gradients are of the output as it is. What differs between kinds of pipelines is in
their family's file (`families/`); this one drives any of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Unpack

from headwater.gradients.layers import layers_named
from headwater.gradients.parameters import adapters_of, first_match, select
from headwater.models.condition import Condition, encoded_once
from headwater.models.families import family_of
from headwater.models.fingerprint import Digest, schedule_facts
from headwater.models.fitting import RESIZE, bucket_of, buckets_named, fit_of, fitted
from headwater.models.loading.hub import place
from headwater.models.loading.options import READINGS, ModelOptions, normal
from headwater.models.loading.pipelines import load_pipeline
from headwater.models.loading.precision import bearable, require_dtype
from headwater.runtime.memory import usable_device


class Denoiser:
    """out(x_t, t, c) of a loaded pipeline, with its way in (encode) and out (decode).

    Args:
        pipe: a diffusers pipeline of one of the families (`headwater.models.families`).
        source: where it came from, written into results so that a later process can load it.
        device: where to compute; CUDA if there is one, else the CPU.
        dtype: of the weights; latents stay in float32 where that is a half precision. The
            pipeline's parts are moved there and stay there.
        options: what else it was loaded with, and how it is read: see `ModelOptions`.

    Raises:
        ModelError: the pipeline is of a family that is not supported, or is no pipeline.
        ParameterError: `dtype` is no floating-point type of torch.

    Attributes:
        options: as JSON takes them, without what is None.
        buckets: (height, width) of each in pixels; empty where all pictures are of one size.
        adapters: layers of adapters in what encodes prompts, by the encoder's name and theirs.
        words_have_graph: whether conditions are encoded once more where a graph is asked for.

    Example:
        denoiser = Denoiser.load("scenes")  # or a folder, a single file, a hub name
        denoiser = Denoiser.load("my-model", "cuda", "bfloat16", lora="my-lora")
    """

    def __init__(
        self,
        pipe: Any,
        source: str = "",
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Unpack[ModelOptions],
    ) -> None:
        require_dtype(dtype)
        self.source, self.options = source, normal(options)
        read = {name: self.options.get(name) for name in READINGS}
        self.family = family_of(pipe, **read)
        self.buckets = buckets_named(self.options.get("buckets"), self.family.image_size)
        for size in self.buckets:  # which the family may refuse
            family_of(pipe, **read | {"resolution": size})
        self.device = usable_device(device)
        self.dtype = dtype
        # A trajectory adds up many small steps, which half precision would lose.
        self.latent_dtype = torch.promote_types(dtype, torch.float32)
        self.network: nn.Module = self.family.network
        self.schedule = self.family.schedule()
        for part in (self.network, *self.family.encoders.values()):
            # diffusers' own `to` warns of casts; attribution needs one type throughout
            nn.Module.to(part, self.device, bearable(part, dtype))
        self.words_have_graph = False
        self.adapters: dict[str, nn.Module] = {
            name: layer
            for part, encoder in self.word_encoders().items()
            for name, layer in adapters_of(part, encoder).items()
        }
        self._fingerprint: str | None = None
        self._encoders_fingerprint: str | None = None

    @classmethod
    def load(
        cls,
        model: str | Path,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Unpack[ModelOptions],
    ) -> Denoiser:
        """Load a local folder or file, a hub name, or "scenes", the bundled model.

        Weights are read in the type `dtype`, and never stand in memory in another.

        Args:
            model: what `save_pretrained` wrote of a pipeline, or of its network alone (with
                `base`), or a single safetensors file.
            device: where to compute; CUDA if there is one, else the CPU.
            dtype: of the weights.
            options: see `ModelOptions`.

        Raises:
            ModelError: there is no such model, or it cannot be read.
            ParameterError: `dtype` is no floating-point type of torch, or scales and adapters are
                not as many.
        """
        require_dtype(dtype)
        known = normal(options)
        return cls(load_pipeline(model, dtype, known), place(model), device, dtype, **known)

    def like(self, model: str | Path) -> Denoiser:
        """Another model, read as this one is."""
        return Denoiser.load(model, self.device, self.dtype, **self.options)

    # --- the prediction --------------------------------------------------------------------

    def predict(
        self,
        xt: Float[Tensor, "b c *f h w"],
        t: int,
        condition: Condition | None,
    ) -> Float[Tensor, "b c *f h w"]:
        """The network's output at timestep t, with its graph where gradients are on.

        The network sees xt in its own type; the output comes back in xt's. The graph begins at
        the condition's texts where `with_graph_of_words` encoded them.
        """
        if condition is not None and torch.is_grad_enabled():
            condition = condition.with_graph()
        return self.family.forward(self.network, xt.to(self.dtype), t, condition).to(xt.dtype)

    # --- its layers ------------------------------------------------------------------------

    def layers(self, parameters: str | None = None) -> dict[str, nn.Module]:
        """The layers that `parameters` names, a set of the family or a regular expression.

        None is the set that suits the model: adapters, or what reads words, if it has any.

        Raises:
            ParameterError: the expression is not one, or matches no layer that can be attributed.
        """
        name = self.default_parameters() if parameters is None else parameters
        family = self.family
        return select(self.network, name, family.parameter_sets, family.mixed, self.adapters)

    def layers_named(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """The layers of these names, which `layers` gave.

        Raises:
            KeyError: there is none of a name.
        """
        every = {**layers_named(self.network, names), **self.adapters}
        return {name: every[name] for name in names}

    def default_parameters(self) -> str:
        """The first of the usual sets that the network has layers of."""
        sets = self.family.parameter_sets
        return first_match(self.network, self.usual_parameters(), sets, self.adapters)

    def usual_parameters(self) -> Sequence[str]:
        """Sets in order of preference: the adapters it was loaded with, then the family's."""
        own = ("lora",) if "lora" in self.options else ()
        return (*own, *self.family.default_parameters)

    def word_encoders(self) -> dict[str, nn.Module]:
        """Of the encoders those that read words, by name."""
        words = self.family.words
        read = () if words is None else words.encoders
        return {name: part for name, part in self.family.encoders.items() if part in read}

    def with_graph_of_words(self) -> Denoiser:
        """The same, whose predictions have a graph to what encodes prompts."""
        twin = copy.copy(self)
        twin.words_have_graph = True
        return twin

    # --- in and out ------------------------------------------------------------------------

    @property
    def pipe(self) -> Any:
        """The diffusers pipeline."""
        return self.family.pipe

    @property
    def conditional(self) -> bool:
        """Whether the model reads a prompt."""
        return self.family.words is not None

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of x0; of videos (channels, frames, height, width)."""
        return self.family.latent_shape

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.family.image_size

    @torch.no_grad()
    def encode_images(
        self, images: Sequence[Image.Image], size: tuple[int, int] | None = None
    ) -> Float[Tensor, "b c *f h w"]:
        """x0 of pictures, scaled and centre-cropped. Nothing is random.

        Args:
            size: (height, width) in pixels; None for the model's own.
        """
        size, resize = size or self.image_size, self.options.get("resize", RESIZE)
        parts = [fitted(image.convert("RGB"), size, resize) for image in images]
        stack = np.stack([np.asarray(part, np.float32) for part in parts])
        pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
        return self.family.to_latents(pixels)

    @torch.no_grad()
    def decode(self, x0: Float[Tensor, "b c *f h w"]) -> list[Image.Image]:
        """Pictures of clean latents."""
        arrays = (self.pixels(x0) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(array) for array in arrays]

    def pixels(self, x0: Float[Tensor, "b c *f h w"]) -> Float[Tensor, "b 3 ph pw"]:
        """Pictures of clean latents as numbers from 0 to 1, with their graph."""
        return ((self.family.to_pixels(x0).to(self.latent_dtype) + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Condition | None:
        """Conditions for captions; None for a model that reads none."""
        words = self.family.words
        if words is None:
            return None
        condition = encoded_once(captions, words.encode).to(dtype=self.dtype)
        return self.remembered(condition, captions, words.encode)

    def remembered(
        self,
        condition: Condition,
        texts: Sequence[str],
        encode: Callable[[Sequence[str]], Condition],
    ) -> Condition:
        """The condition of these texts, with what its graph is made from where that is wanted."""
        if not self.words_have_graph:
            return condition
        return replace(condition, texts=tuple(texts), encode=encode)

    def by_size(self, images: Sequence[Image.Image]) -> dict[tuple[int, int], list[int]]:
        """(height, width) in pixels -> which of these training pictures were trained at it.

        Without buckets that is the model's own size for all.
        """
        found: dict[tuple[int, int], list[int]] = {}
        for row, image in enumerate(images):
            size = bucket_of((image.height, image.width), self.buckets) or self.image_size
            found.setdefault(size, []).append(row)
        return found

    def placed(
        self,
        condition: Condition,
        images: Sequence[Image.Image],
        size: tuple[int, int] | None = None,
    ) -> Condition:
        """The conditions of captions as those of these pictures at this size, a row for each."""
        fits = [fit_of(image, size or self.image_size) for image in images]
        return self.family.placed(condition, fits)

    def cut_prompts(self, prompts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """(words read, words lost) of each prompt that is longer than the text encoder takes."""
        return {} if self.family.words is None else self.family.words.cut(prompts)

    # --- identity --------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 over all that a gradient depends on: the network, its schedule, the encoders.

        Weights, configurations, adapters and their scales. Computed once: they are taken to stay
        as they are while a Denoiser is in use.
        """
        if self._fingerprint is None:
            digest = Digest()
            digest.add_module("network", self.network)
            digest.add("network facts", self.family.network_facts())
            digest.add("prediction", self.schedule.prediction)
            if facts := schedule_facts(getattr(self.pipe, "scheduler", None)):
                digest.add("schedule", facts)
            else:
                digest.add_tensor("a", self.schedule.a)
                digest.add_tensor("s", self.schedule.s)
            self._add_encoders(digest)
            self._fingerprint = digest.hex()
        return self._fingerprint

    def encoders_fingerprint(self) -> str:
        """sha256 over all that `encode_images` and `encode_captions` depend on."""
        if self._encoders_fingerprint is None:
            digest = Digest()
            digest.add("dtype", str(self.dtype))
            self._add_encoders(digest)
            self._encoders_fingerprint = digest.hex()
        return self._encoders_fingerprint

    def _add_encoders(self, digest: Digest) -> None:
        for name, part in self.family.encoders.items():
            digest.add_module(name, part)
        digest.add("encoding", self.family.encoding_facts())
        digest.add("resize", self.options.get("resize", RESIZE))
        if self.buckets:
            digest.add("buckets", self.buckets)
