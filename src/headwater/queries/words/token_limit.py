"""What a text encoder does not read: words beyond its last token."""

from __future__ import annotations

from collections.abc import Sequence

from headwater.errors import QueryError
from headwater.models.denoiser import Denoiser


def lost_words(denoiser: Denoiser, prompts: Sequence[str]) -> list[str]:
    """One sentence on prompts of which words were lost; none where nothing was."""
    cut = {prompt: lost for prompt, (_, lost) in denoiser.cut_prompts(prompts).items()}
    if not cut:
        return []
    prompt, lost = next(iter(cut.items()))
    return [
        f"{len(cut)} prompt(s) are longer than the text encoder takes; {prompt[:60]!r} lost the "
        f"words {lost[:60]!r}"
    ]


def require_read(denoiser: Denoiser, concept: str, prompts: Sequence[str]) -> None:
    """Refuse a concept that lies beyond the last token that is read, in all of the prompts.

    Where some are short enough the others ask nothing, and weigh nothing.

    Raises:
        QueryError: names the first; its answer would be of something else.
    """
    cut = denoiser.cut_prompts(prompts)
    unread = [prompt for prompt, (kept, _) in cut.items() if _squash(concept) not in _squash(kept)]
    if unread and len(unread) == len(set(prompts)):
        raise QueryError(
            f"{concept!r} lies beyond the last token that the text encoder reads in "
            f"{unread[0][:60]!r}, which loses {cut[unread[0]][1][:60]!r}: shorten the prompt, or "
            "ask with --context bare"
        )


def _squash(text: str) -> str:
    """Letters and digits alone: how a tokenizer spaces words must not matter."""
    return "".join(letter for letter in text.lower() if letter.isalnum())
