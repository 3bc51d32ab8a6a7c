"""Find a concept's words in a prompt, and take them out with all that only they needed.

What is left is a prompt of its own, c-, and its embedding is compared with the other's: an empty
bracket, a weight of nothing or a second comma would be part of what is asked.
"""

# ruff: noqa: RUF001 - the punctuation of other scripts is meant

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from headwater.queries.words.scripts import HANGUL, LETTER, UNSPACED, marks, spaced

_HOLE = "\0"

# --- the grammar of sentences ---------------------------------------------------------------------

_PREPOSITION = r"(?:in|on|at|with|by|of|and|or|from|under|over|near|as|like|wearing|holding)"
_ARTICLE = r"(?:a|an|the)"
_STOP = r"[,.;:!?，、。；：！？|)\]}>」』】）》]"
_IN_THE_STYLE_OF = (
    rf"\b(?:in|with|by)\s+(?:{_ARTICLE}\s+)?(?:art\s+)?(?:style|manner|art)\s+(?:of|by)\s+"
)
# What may follow a hole that nothing fills any more.
_NOTHING = rf"(?=\s*(?:$|{_STOP}|{_PREPOSITION}\b))"

# Applied once, in this order, around the hole that the words leave, and nowhere else.
_GRAMMAR = (
    # "Pikachu in the style of Picasso" -> "Pikachu"; of "in the style of graffiti art" art stays
    (rf"{_IN_THE_STYLE_OF}(?:{_ARTICLE}\s+{_HOLE}{_NOTHING}|{_HOLE}(?!\s+art\b))", _HOLE),
    # "a star in hatched style" -> "a star"
    (rf"\b(?:in|with)\s+(?:{_ARTICLE}\s+)?{_HOLE}\s+(?:style|manner)\b", _HOLE),
    # "a star on a hill" without "star" -> "on a hill"
    (rf"\b{_ARTICLE}\s+{_HOLE}{_NOTHING}", _HOLE),
    # "a cat with a hat" without "hat" -> "a cat"
    (rf"\b{_PREPOSITION}\s+{_HOLE}{_NOTHING}", _HOLE),
    # "an orange star" -> "a star"
    (rf"\b(a)n?\s+{_HOLE}\s*(?=[aeiou])", r"\1n "),
    (rf"\b(a)n?\s+{_HOLE}\s*(?=\w)", r"\1 "),
    # the particle after a noun: "红色的猫" without "红色" -> "猫", "星のイラスト" -> "イラスト"
    (rf"{_HOLE}[的のがをはにでと](?-i:(?=[{UNSPACED}]))", _HOLE),
)

# --- the syntax of prompts ------------------------------------------------------------------------

_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_OPEN = r"[(\[{<（【「『《]"
_PAIRS = '() [] {} <> （） 【】 「」 『』 《》 “” ‘’ «» "" ``'.split()
_BREAK = r"\b(?-i:BREAK)\b"
_END = rf"(?=\s*(?:$|{_STOP}|{_BREAK}))"


def _emptied(pair: str) -> str:
    """A pair of brackets with nothing in it but a hole and its weight; more weight may follow."""
    opening, closing = map(re.escape, pair)
    weight = rf"(?:\s*:{{1,2}}\s*{_NUMBER})*"
    after = rf"(?:[+-]+|{_NUMBER})?(?!\w)" if pair == "()" else ""
    return rf"\\?{opening}\s*{_HOLE}{weight}\s*\\?{closing}{after}"


# What stands around a hole and means nothing without the words. The hole stays.
_WRAPPING = (
    # "<lora:star:1>": the name of a file, of which no part may be missing
    (rf"<\w+:[^<>]*{_HOLE}[^<>]*>", _HOLE),
    # "(star:1.2)", "((star))", "[star]", "{star}", "(star)++", "(star)1.2", "\(star\)", '"star"'
    ("|".join(map(_emptied, _PAIRS)), _HOLE),
    # "*star*", "__star__", "'star'"
    (rf"(\*+|_+|(?<!\w)'){_HOLE}\1(?!\w)", _HOLE),
    # "#star", "star's", "star++", "star::2"
    (rf"(?<!\w)[#@]{_HOLE}(?!\w)", _HOLE),
    (rf"{_HOLE}['’]s\b", _HOLE),
    (rf"{_HOLE}(?:\++|--+)(?![\w-])", _HOLE),
    (rf"{_HOLE}\s*::\s*(?:{_NUMBER}(?!\w))?", _HOLE),
    # "star:1.2, night"; but in "(night, star:1.2)" the weight is of all that the brackets hold
    (rf"(?:(?<=^)|(?<=[,;|] )|(?<=[,;|])){_HOLE}\s*:\s*{_NUMBER}(?=\s*(?:$|[,;|]))", _HOLE),
)
# What joins a hole to its neighbours: one of two joints goes, and with it the hole.
_JOINING = (
    # "rock-star-life" -> "rock-life", "five-star hotel" -> "five hotel", "star-shaped" -> "shaped"
    (rf"(?<=\w)([-_/]){_HOLE}[-_/](?=\w)", r"\1"),
    (rf"(?<=\w)[-_/]{_HOLE}(?!\w)", _HOLE),
    (rf"(?<!\w){_HOLE}[-_/](?=\w)", _HOLE),
    # "(star, night)" -> "(night)", "[star:moon:0.5]" -> "[moon:0.5]"
    (rf"({_OPEN}\s*){_HOLE}\s*[,;:|，、]+\s*", r"\1"),
    # "star | moon" -> "moon", "night - star - day" -> "night - day"
    (rf"(^\s*|[,|]\s*|\s[&+/–—-]\s+){_HOLE}\s*(?:\|\s*|[&+/–—-]\s+)", r"\1"),
    # "red|blue|green" -> "red|green", "star & moon" -> "star"
    (rf"\s*(?:::|[|]|(?<=\s)[&+/–—-](?=\s))\s*{_HOLE}{_END}", ""),
    # "night, star, day" -> "night, day"; "(night star:1.2)" -> "(night:1.2)"
    (rf"\s*(?:[,，、]\s*)?{_HOLE}\s*(?={_STOP})", ""),
    (rf"({_OPEN})\s*{_HOLE}\s*", r"\1"),
    # parts of a long prompt: "night, star BREAK day" -> "night BREAK day"
    (rf"\s*[,，、]\s*{_HOLE}(?=\s*{_BREAK})", ""),
    (rf"\s*{_BREAK}\s+{_HOLE}\s*$", ""),
)


def contains(text: str, words: str) -> bool:
    """Whether `text` holds `words` as whole words, whatever the case.

    In scripts without spaces between words, whether it holds them at all.

    >>> contains("a starlit sky", "star"), contains("一只红色的猫", "猫")
    (False, True)
    """
    return bool(held_by(text, [words]))


def held_by(text: str, several: Iterable[str]) -> list[str]:
    """Those of several words that `text` holds, each as `contains` has it.

    >>> held_by("a starry sky above a red star", ["red", "blue", "star"])
    ['red', 'star']
    """
    # Most captions lack most words, which is seen fastest so: of ASCII alone, where two letters of
    # one case agree.
    lowered = text.lower() if text.isascii() else None
    return [
        words
        for words in several
        if (lowered is None or _first_part(words) in lowered)
        and pattern_for(text, words).search(text) is not None
    ]


@lru_cache(maxsize=1024)
def _first_part(words: str) -> str:
    """What a text of ASCII holds, in small letters, if it holds the words; nothing of others."""
    return words.lower().split(maxsplit=1)[0] if words.isascii() and words.strip() else ""


def without(text: str, words: str, anchor: str = "") -> str:
    """`text` with every occurrence of `words` taken out and the gap tidied, or an anchor there.

    An anchor is what the thing is called if not by its own name (Kumari et al. 2023, "anchor
    concept"): "shape" for "star".

    >>> without("Pikachu in the style of Pablo Picasso", "Pablo Picasso")
    'Pikachu'
    >>> without("Pikachu in the style of Pablo Picasso", "Pikachu")
    'in the style of Pablo Picasso'
    >>> without("an orange star in hatched style on a striped background", "hatched")
    'an orange star on a striped background'
    >>> without("1girl, (star:1.2), night", "star")
    '1girl, night'
    >>> without("an orange star in hatched style", "star", anchor="shape")
    'an orange shape in hatched style'
    """
    if anchor.strip():
        return _anchored(text, words, anchor.strip())
    text = _reduced(pattern_for(text, words).sub(_HOLE, text), _WRAPPING)
    for pattern, replacement in _GRAMMAR:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    text = _reduced(text, (*_WRAPPING, *_JOINING))
    text = re.sub(rf"(?<=[{UNSPACED}]){_HOLE}+(?=[{UNSPACED}])", "", text)  # nothing between words
    text = re.sub(rf"\s*{_HOLE}\s*", " ", text)
    text = re.sub(r"\s+", " ", text).strip(" ,.;:-，、。；：")
    return text if re.search(r"\w", text) else ""


def _anchored(text: str, words: str, anchor: str) -> str:
    """`text` with an anchor for `words`: "a star" -> "an object"."""
    holes = pattern_for(text, words).sub(_HOLE, text)
    article = "n" if anchor[0].casefold() in "aeiou" else ""
    holes = re.sub(rf"\b(a)n?(\s+{_HOLE})", rf"\1{article}\2", holes, flags=re.IGNORECASE)
    return holes.replace(_HOLE, anchor)


def _reduced(text: str, rules: Sequence[tuple[str, str]]) -> str:
    """`text` after the first rule that changes it, again and again; each makes it shorter."""
    before = None
    while text != before:
        before = text
        for pattern, replacement in rules:
            text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
            if text != before:
                break
    return text


# Korean writes these at the end of a noun: "고양이가" is "고양이" as a subject.
_PARTICLES = "이 가 은 는 을 를 의 에 에서 에게 와 과 랑 이랑 로 으로 도 만 들 들이 들을 들은 처럼"


def pattern_for(text: str, words: str) -> re.Pattern[str]:
    """What finds `words` in a text as `word_pattern` does; of ASCII it is made far sooner."""
    return _ascii_pattern(words) if text.isascii() and words.isascii() else word_pattern(words)


@lru_cache(maxsize=1024)
def _ascii_pattern(words: str) -> re.Pattern[str]:
    """`word_pattern` where text and words are ASCII, without the letters of all other scripts."""
    parts, letter = words.split(), "[A-Za-z0-9]"
    if not parts:
        return word_pattern("")
    pattern = r"\s+".join(map(re.escape, parts))
    before = f"(?<!{letter})" if re.match(letter, parts[0][0]) else ""
    after = f"(?!{letter})" if re.match(letter, parts[-1][-1]) else ""
    return re.compile(f"{before}(?i:{pattern}){after}")


@lru_cache(maxsize=1024)
def word_pattern(words: str) -> re.Pattern[str]:
    """What finds `words` as whole words, whatever the case and the white space between them.

    A word ends where the letters of its script end, if that is one that puts spaces between words
    (see `scripts`). A Korean word is found with its particle. No accent or vowel sign is cut off.
    """
    parts = words.split()
    if not parts:
        return re.compile(r"(?!)")  # finds nothing
    # Case is ignored of the words alone: of classes with all of Chinese in them that takes long.
    pattern = r"\s+".join(map(re.escape, parts))
    pattern = f"(?i:{pattern})"
    if re.match(spaced(), parts[0][0]):
        pattern = rf"(?<!{spaced()}){pattern}"
    if re.match(rf"[{HANGUL}]", parts[-1][-1]):
        pattern += rf"(?:{'|'.join(_PARTICLES.split())})?"
    ends = LETTER if re.match(spaced(), parts[-1][-1]) else "(?!)"
    return re.compile(rf"{pattern}(?!{ends}|[{marks()}])")
