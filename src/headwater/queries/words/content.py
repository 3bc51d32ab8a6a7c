"""The words of a prompt that could be asked about one by one."""

from __future__ import annotations

import re
from itertools import groupby

from headwater.queries.words.scripts import holds_unspaced

# Words that name nothing: no picture shows an "of".
_FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every no not
    of in on at by to from with without into onto over under above below behind beside between
    near next through across along around against among inside outside up down off for as like
    and or but nor so than then while when where which who whose what how why if
    is are was were be been being has have had having do does did doing can could will would shall
    should may might must it its he his him she her hers they their them we our us you your i my me
    there here very more most less least much many few several other another own same such only
    just also too one two three four five six seven eight nine ten
    """.split()
)
# Between tags, and between sentences.
_PARTS = re.compile(r"[,;:.!?|()\[\]{}\"\n]+|\s-\s|--+")
# A weight of a tag, as web interfaces write it: (star:1.2).
_WEIGHT = re.compile(r":\s*\d+(\.\d+)?\s*(?=\))")
# Of "in the style of Picasso", what names nothing.
_STYLE_OF = re.compile(r"\bin (?:the |a )?(?:art )?(?:style|manner) (?:of|by)\b", re.IGNORECASE)
_TAG = 3  # words of the longest tag that is one thing


def content_words(prompt: str) -> list[str]:
    """What a prompt names, each once, in its order.

    A part between commas of up to three words is one thing (`blue hair`), unless it has a function
    word; of others each word is, without function words and numbers, and without the style of `in
    the style of`; words with capitals that follow each other are a name, and one thing. Nothing of
    a prompt in a script without spaces, whose words no rule finds.

    >>> content_words("a red star in hatched style on a striped background")
    ['red', 'star', 'hatched', 'style', 'striped', 'background']
    >>> content_words("1girl, solo, blue hair, (smile:1.2), a photo of sks dog")
    ['1girl', 'solo', 'blue hair', 'smile', 'photo', 'sks', 'dog']
    >>> content_words("Pikachu in the style of Pablo Picasso")
    ['Pikachu', 'Pablo Picasso']
    """
    if holds_unspaced(prompt):
        return []
    plain = _STYLE_OF.sub("of", _WEIGHT.sub("", prompt))
    parts = [part.split() for part in _PARTS.split(plain)]
    several = sum(map(bool, parts)) > 1
    found: list[str] = []
    for words in parts:
        if several and len(words) <= _TAG and all(map(is_content, words)):
            found.append(" ".join(words))
        else:
            found.extend(name for name in _joined_names(words) if is_content(name))
    return [words for words in dict.fromkeys(found) if words]


def _joined_names(words: list[str]) -> list[str]:
    """The words, those of a name (`Pablo Picasso`) as one; where all have capitals, none is one."""
    if all(word[:1].isupper() for word in words):
        return words
    joined: list[str] = []
    for capital, run in groupby(words, lambda word: word[:1].isupper() and is_content(word)):
        together = list(run)
        joined.extend([" ".join(together)] if capital else together)
    return joined


def is_content(words: str) -> bool:
    """Whether these alone could be what a picture shows: letters, and no function word."""
    return words.casefold() not in _FUNCTION_WORDS and any(map(str.isalpha, words))
