"""Prompts through a pipeline's tokenizers and text encoders, as its `encode_prompt` does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
# Stands for a prompt, and in no template.
_PLACE = "\N{OBJECT REPLACEMENT CHARACTER}"
# Names of a pipeline's parts: a tokenizer and the encoder that reads what it makes.
PAIRS = {
    "text_encoder": "tokenizer",
    "text_encoder_2": "tokenizer_2",
    "text_encoder_3": "tokenizer_3",
}

# What a network reads beside x_t, of a pipeline and texts, with its graph.
Encode = Callable[[Any, list[str]], Condition]


def text_encoders(pipe: Any) -> dict[str, nn.Module]:
    """The encoders that have a tokenizer, by the names of the pipeline's parts."""
    return {
        name: getattr(pipe, name)
        for name, tokenizer in PAIRS.items()
        if getattr(pipe, name, None) is not None and getattr(pipe, tokenizer, None) is not None
    }


def tokenizer_of(pipe: Any, part: str) -> Any:
    """What makes numbers for the text encoder of this name."""
    return _inner(getattr(pipe, PAIRS[part]))


def _inner(tokenizer: Any) -> Any:
    """Itself, or the one inside a processor of pictures and words (Flux.2)."""
    return getattr(tokenizer, "tokenizer", tokenizer)


class PromptWords:
    """The words of a pipeline with one text encoder or several; see `family.Words`.

    A word that the encoders do not know has an embedding for each, one after the other.
    """

    def __init__(self, pipe: Any, encode: Encode, preface: str = "") -> None:
        """Bind a pipeline.

        Args:
            preface: what the pipeline says before each prompt, of tokens that count.
        """
        self.pipe = pipe
        self._encode = encode
        self._preface = preface
        self._parts = text_encoders(pipe)
        self.encoders: Sequence[nn.Module] = list(self._parts.values())
        self.token_limit: int = self._longest().model_max_length

    def encode(self, texts: Sequence[str]) -> Condition:
        """What the network reads, padded to the encoders' limits, with its graph."""
        return self._encode(self.pipe, list(texts))

    def names(self) -> Collection[str]:
        """All tokens that one of the tokenizers knows."""
        return {name for each in self._tokenizers() for name in each.get_vocab()}

    def initial(self, text: str) -> Float[Tensor, " e"]:
        """The mean embedding of a text's tokens, or of all tokens for a text of none."""
        means = []
        for tokenizer, encoder in zip(self._tokenizers(), self.encoders, strict=True):
            table = _embedding(encoder).weight.detach()
            ids = tokenizer(text, add_special_tokens=False).input_ids
            means.append(table[ids].mean(0) if ids else table.mean(0))
        return torch.cat(means)

    def scale(self) -> float:
        """The root mean square of the embeddings of all tokens."""
        tables = [_embedding(encoder).weight.detach() for encoder in self.encoders]
        squares = sum(table.float().square().sum().item() for table in tables)
        return (squares / sum(table.numel() for table in tables)) ** 0.5

    def cut(self, texts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Text -> (words read, words lost), of each that is longer than `token_limit`.

        By the encoder that reads most.
        """
        tokenizer = self._longest()
        room = self.token_limit - tokenizer.num_special_tokens_to_add()
        room -= len(tokenizer(self._preface, add_special_tokens=False).input_ids)
        unique = list(dict.fromkeys(texts))
        tokens = tokenizer(unique, add_special_tokens=False).input_ids if unique else []
        return {
            text: (tokenizer.decode(ids[:room]), tokenizer.decode(ids[room:]))
            for text, ids in zip(unique, tokens, strict=True)
            if len(ids) > room
        }

    @contextmanager
    def reader(
        self, name: str, vector: Float[Tensor, " e"]
    ) -> Iterator[Callable[[Sequence[str]], Condition]]:
        """Inside, what encodes prompts that may hold a new token of this name and embedding.

        Copies of the tokenizers learn the name, and the text encoders look the vector up by hand:
        neither the pipeline nor a table of embeddings is touched.
        """
        learned: dict[str, Any] = {}
        start = 0
        with ExitStack() as stack:
            for part, encoder in self._parts.items():
                tokenizer = copy.deepcopy(getattr(self.pipe, PAIRS[part]))
                _inner(tokenizer).add_tokens(name)
                learned[PAIRS[part]] = tokenizer
                table, number = _embedding(encoder), _inner(tokenizer).convert_tokens_to_ids(name)
                own = slice(start, start + table.embedding_dim)
                for place in _lookups(encoder, table):
                    embed = partial(_embed, place, number, vector, own)
                    stack.enter_context(swapped_forward(place, embed))
                start = own.stop
            twin = with_tokenizers(self.pipe, learned)
            yield lambda texts: self._encode(twin, list(texts))

    def _tokenizers(self) -> list[Any]:
        return [tokenizer_of(self.pipe, part) for part in self._parts]

    def _longest(self) -> Any:
        return max(self._tokenizers(), key=lambda tokenizer: tokenizer.model_max_length)


def _embed(table: nn.Embedding, number: int, vector: Tensor, own: slice, ids: Tensor) -> Tensor:
    """What the table looks up, and its own part of the vector in the place of one token."""
    new = ids == number
    embedded = type(table).forward(table, ids.masked_fill(new, 0))
    scale = getattr(table, "embed_scale", 1.0)  # Gemma's tables multiply what they look up
    return torch.where(new[..., None], vector[own].to(embedded) * scale, embedded)


def _lookups(encoder: nn.Module, table: nn.Embedding) -> list[nn.Embedding]:
    """Where an encoder looks tokens up: T5's has a second module of the same weights."""
    modules = [module for module in encoder.modules() if isinstance(module, nn.Embedding)]
    return [module for module in modules if module.weight is table.weight]


def _embedding(encoder: Any) -> nn.Embedding:
    return encoder.get_input_embeddings()


def device_of(pipe: Any) -> torch.device:
    """Where the text encoders are."""
    return next(next(iter(text_encoders(pipe).values())).parameters()).device


def chat_preface(
    tokenizer: Any, chat: Callable[[str], Any] = lambda text: [{"role": "user", "content": text}]
) -> str:
    """What a tokenizer's chat template says before the user's words.

    Args:
        chat: what the template is given of these.
    """
    return tokenizer.apply_chat_template(chat(_PLACE), tokenize=False).partition(_PLACE)[0]


def with_tokenizers(pipe: Any, tokenizers: Mapping[str, Any]) -> Any:
    """A second pipeline of the same parts, but for these tokenizers."""
    twin = copy.copy(pipe)
    for name, tokenizer in tokenizers.items():
        setattr(twin, name, tokenizer)
    return twin


def limited(pipe: Any, limits: Mapping[str, int] | None = None) -> Any:
    """The pipeline, with tokenizers that stop where the text encoders do.

    Some are saved without a limit, or with a larger one than the encoder has positions for.

    Args:
        limits: what the pipeline itself reads at most, by the names of tokenizers.

    Raises:
        ModelError: neither of them has a limit.
    """
    shortened = {}
    for part, encoder in text_encoders(pipe).items():
        name, config = PAIRS[part], getattr(encoder, "config", None)
        tokenizer = tokenizer_of(pipe, part)
        most = [getattr(config, "max_position_embeddings", None), (limits or {}).get(name)]
        most = [limit for limit in most if limit is not None]
        if not most and tokenizer.model_max_length > _NO_LIMIT:
            raise ModelError(
                f"{type(pipe).__name__}'s {name} has no model_max_length, and its text encoder no "
                f"max_position_embeddings: set `pipe.{name}.model_max_length` to what it was "
                "trained with"
            )
        if most and tokenizer.model_max_length > min(most):
            shortened[name] = _shortened(getattr(pipe, name), min(most))
    return with_tokenizers(pipe, shortened) if shortened else pipe


def _shortened(tokenizer: Any, limit: int) -> Any:
    """A copy that stops there, of a tokenizer or of what it is inside of."""
    twin = copy.copy(tokenizer)
    if _inner(twin) is not twin:
        twin.tokenizer = copy.copy(twin.tokenizer)
    _inner(twin).model_max_length = limit
    return twin


def tokenizers_facts(pipe: Any) -> dict[str, Any]:
    """What turns a text into numbers, tokenizer by tokenizer."""
    return {
        PAIRS[part]: tokenizer_facts(getattr(pipe, PAIRS[part])) for part in text_encoders(pipe)
    }


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """What turns a text into numbers."""
    template = getattr(tokenizer, "chat_template", None)
    tokenizer = _inner(tokenizer)
    facts = {
        "limit": tokenizer.model_max_length,
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "vocabulary": tokenizer.get_vocab(),
    }
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return facts | {"merges": [str(pair) for pair in getattr(tokenizer, "bpe_ranks", ())]}
    facts |= {} if template is None else {"chat": template}
    whole = json.loads(backend.to_str())
    # How it was last called, and the vocabulary once more.
    model = {name: value for name, value in whole["model"].items() if name != "vocab"}
    steps = ("normalizer", "pre_tokenizer", "post_processor")
    return facts | {"model": model} | {name: whole.get(name) for name in steps}
