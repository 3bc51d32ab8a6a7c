"""Prompts through one tokenizer and one text encoder, as the pipeline's `encode_prompt` does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwater.errors import ModelError
from headwater.models.condition import Condition
from headwater.models.patches import swapped_forward

# A tokenizer that was saved without a limit says 10^30.
_NO_LIMIT = 10**6


class PromptWords:
    """The words of a pipeline with a `tokenizer` and a `text_encoder`; see `family.Words`."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.encoder: nn.Module = pipe.text_encoder
        self.token_limit: int = pipe.tokenizer.model_max_length

    def encode(self, texts: Sequence[str]) -> Condition:
        """The text encoder's hidden states, padded to its limit, with their graph."""
        return _encode(self.pipe, texts)

    def names(self) -> Collection[str]:
        """All tokens that are known."""
        return self.pipe.tokenizer.get_vocab().keys()

    def table(self) -> Float[Tensor, "n e"]:
        """The embeddings of all tokens."""
        return self._embedding().weight.detach()

    def ids(self, text: str) -> list[int]:
        """Rows of the table that a text is made of, without begin and end."""
        return self.pipe.tokenizer(text, add_special_tokens=False).input_ids

    def cut(self, texts: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Text -> (words read, words lost), of each that is longer than `token_limit`."""
        tokenizer, limit = self.pipe.tokenizer, self.token_limit
        unique = list(dict.fromkeys(texts))
        tokens = tokenizer(unique).input_ids if unique else []
        return {
            text: (tokenizer.decode(ids[1 : limit - 1]), tokenizer.decode(ids[limit - 1 : -1]))
            for text, ids in zip(unique, tokens, strict=True)
            if len(ids) > limit
        }

    @contextmanager
    def reader(
        self, name: str, vector: Float[Tensor, " e"]
    ) -> Iterator[Callable[[Sequence[str]], Condition]]:
        """Inside, what encodes prompts that may hold a new token of this name and embedding.

        A copy of the tokenizer learns the name, and the text encoder looks the vector up by hand:
        neither the pipeline nor the table of embeddings is touched.
        """
        tokenizer = copy.deepcopy(self.pipe.tokenizer)
        tokenizer.add_tokens(name)
        number, table = tokenizer.convert_tokens_to_ids(name), self._embedding()

        def embed(ids: Tensor) -> Tensor:
            own = ids == number
            embedded = type(table).forward(table, ids.masked_fill(own, 0))
            return torch.where(own[..., None], vector.to(embedded), embedded)

        with swapped_forward(table, embed):
            yield partial(_encode, with_tokenizer(self.pipe, tokenizer))

    def _embedding(self) -> nn.Embedding:
        encoder: Any = self.encoder
        return encoder.get_input_embeddings()


def _encode(pipe: Any, texts: Sequence[str]) -> Condition:
    device = next(pipe.text_encoder.parameters()).device
    encoded = pipe.encode_prompt(list(texts), device, 1, False)[0]
    return Condition({"encoder_hidden_states": encoded})


def with_tokenizer(pipe: Any, tokenizer: Any) -> Any:
    """A second pipeline of the same parts, but for the tokenizer."""
    twin = copy.copy(pipe)
    twin.tokenizer = tokenizer
    return twin


def limited(pipe: Any) -> Any:
    """The pipeline, with a tokenizer that stops where the text encoder does.

    Some are saved without a limit, or with a larger one than the encoder has positions for.

    Raises:
        ModelError: neither of them has a limit.
    """
    limit = pipe.tokenizer.model_max_length
    positions = getattr(pipe.text_encoder.config, "max_position_embeddings", None)
    if positions is None and limit > _NO_LIMIT:
        raise ModelError(
            f"{type(pipe).__name__}'s tokenizer has no model_max_length, and its text encoder no "
            "max_position_embeddings: set `pipe.tokenizer.model_max_length` to what it was trained "
            "with"
        )
    if positions is None or limit <= positions:
        return pipe
    tokenizer = copy.copy(pipe.tokenizer)
    tokenizer.model_max_length = positions
    return with_tokenizer(pipe, tokenizer)


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """What turns a text into numbers."""
    facts = {
        "limit": tokenizer.model_max_length,
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "vocabulary": tokenizer.get_vocab(),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return facts | {"merges": [str(pair) for pair in getattr(tokenizer, "bpe_ranks", ())]}
    whole = json.loads(backend.to_str())
    # How it was last called, and the vocabulary once more.
    model = {name: value for name, value in whole["model"].items() if name != "vocab"}
    steps = ("normalizer", "pre_tokenizer", "post_processor")
    return facts | {"model": model} | {name: whole.get(name) for name in steps}
