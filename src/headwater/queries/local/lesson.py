"""What a token is learned from, for a local concept: one picture, and the prompt of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from headwater.models.denoiser import Denoiser
from headwater.models.sampling import Picture
from headwater.models.textual_inversion import (
    BATCH,
    LEARNING_RATE,
    Learning,
    Token,
    learn_token,
    new_name,
)
from headwater.queries.pictures.files import latent_mask
from headwater.queries.words.prompts import word_pattern
from headwater.runtime.progress import ProgressBar
from headwater.storage import cache


@dataclass(frozen=True)
class Lesson:
    """All that a learned token depends on besides the model.

    Attributes:
        words: of the prompt, whose place the token takes; None adds it to the prompt.
    """

    picture: Picture
    mask: str | Path | None
    words: str | None
    prompt: str
    steps: int
    seed: int

    def facts(self) -> Mapping[str, Any]:
        """The same as JSON; pictures by their contents."""
        mask = None if self.mask is None else hashlib.sha256(Path(self.mask).read_bytes())
        return {
            "textual inversion": [LEARNING_RATE, BATCH],
            "picture": self.picture.digest(),
            "mask": None if mask is None else mask.hexdigest(),
            "words": self.words,
            "prompt": self.prompt,
            "steps": self.steps,
            "seed": self.seed,
        }

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a mask that cannot be.

        Raises:
            QueryError: unreadable, of another size than the picture, or black all over.
        """
        self._mask(denoiser)

    def token(self, denoiser: Denoiser, folder: Path) -> Token:
        """Learn it, or read what was learned before of the same picture by the same model."""
        name = new_name(denoiser, self.words or "picture")
        facts = {
            "model": denoiser.fingerprint(),
            "dtype": str(denoiser.dtype),
            "name": name,
            **self.facts(),
        }
        kept = cache.remember(folder, facts, lambda: {"embedding": self._learn(denoiser, name)})
        return Token(name, kept.tensors["embedding"].to(denoiser.device))

    def _learn(self, denoiser: Denoiser, name: str) -> Float[Tensor, " e"]:
        x0 = self.picture.x0.to(denoiser.device, denoiser.latent_dtype)
        prompt = with_token(self.prompt, self.words, name)
        with ProgressBar(total=self.steps, desc=f"learning {name}") as bar:
            return learn_token(
                denoiser,
                x0,
                name,
                [prompt],
                Learning(self.words or "", self.steps, seed=self.seed, mask=self._mask(denoiser)),
                tick=lambda loss: bar.update(),
            )

    def _mask(self, denoiser: Denoiser) -> Float[Tensor, "1 1 h w"] | None:
        size = self.picture.image.size
        return None if self.mask is None else latent_mask(denoiser, self.mask, size)


def with_token(text: str, words: str | None, name: str) -> str:
    """The text with the token in the words' place, or after it where there are no words."""
    if words is None:
        return f"{text} {name}".strip()
    return word_pattern(words).sub(lambda match: name, text)
