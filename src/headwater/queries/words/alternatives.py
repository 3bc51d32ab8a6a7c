"""Words that stand in the same place of captions: the values of a kind, as colours are.

What a picture does not show can only be told against what it might show instead. Values of a kind
exclude each other, and captions that differ in one value alone say which they are: "a red star" and
"a blue star" make `red` and `blue` alternatives, of as many words as they are ("a polka dot
shirt", "a striped shirt"). Where no two captions are so alike, the two words before and after must
do, and must be the same at two places at least.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from headwater.queries.words.content import is_content
from headwater.queries.words.prompts import contains
from headwater.queries.words.replacements import ARTICLES, exchanged
from headwater.queries.words.scripts import holds_unspaced

MOST_CAPTIONS = 20_000  # that are read; more of them change little
MOST_VALUES = 16  # of a kind, each of which costs a forward pass of each image
_MOST_WORDS = 3  # of a value
_MOST_AT_A_PLACE = 200  # where more stand than this, what stands there is of any kind
# Of the rarer of two words the share of captions that hold both, above which they do not exclude
# each other: "a red bus" and "a large bus", where there is "a large red bus".
_TOGETHER = 0.2
_WEAK = 0.2  # of a word's strongest tie: what is weaker is of another kind
_NEIGHBOURS = 2  # words on either side of a place, and places that two words must share there

Words = tuple[str, ...]
_TOKEN = re.compile(r"\w+(?:['\u2019-]\w+)*|[^\w\s]")


def mine_kinds(captions: Iterable[str]) -> list[tuple[str, ...]]:
    """Kinds of words that captions set in the same place, each value in one kind.

    The most frequent value of a kind comes first, and so does the kind with the most frequent one.

    >>> mine_kinds(["a red star", "a blue star", "an orange star", "a red moon"])
    [('star', 'moon'), ('red', 'blue', 'orange')]
    """
    texts = sorted({text for text in captions if text.strip()})
    if len(texts) > MOST_CAPTIONS:
        texts = sorted(random.Random("kinds").sample(texts, MOST_CAPTIONS))
    parsed = [_tokens(text) for text in texts]
    holders = _holders(parsed)
    whole = _ties(_standing(parsed, holders, None), holders, 1)
    near = _ties(_standing(parsed, holders, _NEIGHBOURS), holders, _NEIGHBOURS)
    ties = near | whole
    forms = _forms(texts)
    return [
        tuple(" ".join(forms[word] for word in value) for value in kind)
        for kind in _grouped(ties, {words: len(own) for words, own in holders.items()})
    ]


def alternatives_of(concept: str, kinds: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The values of the concept's kind, itself among them; none where no kind holds it.

    Of a concept with one such value in it, what it would be with the others.

    >>> alternatives_of("hatched style", [("hatched", "dotted"), ("star", "moon")])
    ('hatched style', 'dotted style')
    """
    known = " ".join(concept.split()).casefold()
    for kind in kinds:
        if known in map(str.casefold, kind):
            return tuple(concept if value.casefold() == known else value for value in kind)
    within = [(value, kind) for kind in kinds for value in kind if contains(concept, value)]
    if len(within) != 1:
        return ()
    value, kind = within[0]
    return tuple(concept if other == value else exchanged(concept, value, other) for other in kind)


def _holders(parsed: Sequence[Sequence[str]]) -> dict[Words, set[int]]:
    """What could be a value, and which captions hold it.

    Words that are together by chance ("red star") are no value; "polka dot" is.
    """
    holders: dict[Words, set[int]] = defaultdict(set)
    for number, tokens in enumerate(parsed):
        for start, end in _spans(tokens):
            holders[tuple(tokens[start:end])].add(number)

    def belong(words: Words) -> bool:
        alone = [len(holders[(word,)]) for word in words if is_content(word)]
        return 2 * len(holders[words]) > min(alone)

    return {words: own for words, own in holders.items() if len(words) == 1 or belong(words)}


def _standing(
    parsed: Sequence[Sequence[str]], holders: Mapping[Words, set[int]], around: int | None
) -> list[set[Words]]:
    """What stands at each place: in the same caption else, or with `around` words before and after.

    Articles are one: which of the two stands there is the next word's doing.
    """
    places: dict[tuple[Words, Words], set[Words]] = defaultdict(set)
    for tokens in parsed:
        plain = [ARTICLES.get(token, token) for token in tokens]
        padded = [""] * (around or 0) + plain + [""] * (around or 0)
        for start, end in _spans(tokens):
            words = tuple(tokens[start:end])
            if words not in holders:
                continue
            if around is None:
                left, right = plain[:start], plain[end:]
            else:
                left = padded[start : start + around]
                right = padded[end + around : end + 2 * around]
            places[(tuple(left), tuple(right))].add(words)
    return [standing for standing in places.values() if 1 < len(standing) <= _MOST_AT_A_PLACE]


def _ties(
    places: Sequence[set[Words]], holders: Mapping[Words, set[int]], fewest: int
) -> dict[Words, dict[Words, float]]:
    """Of each value those that stand where it does: at which share of the rarer's captions.

    Short ones first: what holds a value is none ("red moon", where "red" is one).

    Args:
        fewest: places that two must share.
    """
    ties: dict[Words, dict[Words, float]] = {}
    for length in range(1, _MOST_WORDS + 1):
        shared: Counter[tuple[Words, Words]] = Counter()
        for place in places:
            standing = [words for words in place if _is_new(words, length, ties)]
            shared.update(combinations(sorted(standing), 2))
        found: dict[Words, dict[Words, float]] = defaultdict(dict)
        for (one, other), count in shared.items():
            if count >= fewest and _exclude(one, other, holders):
                share = count / min(len(holders[one]), len(holders[other]))
                found[one][other] = found[other][one] = share
        ties = dict(found)
    return ties


def _is_new(words: Words, length: int, ties: Mapping[Words, object]) -> bool:
    """Whether it is of so many words at most, and no part of it is a value."""
    parts = (
        words[start:end]
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
        if end - start < len(words)
    )
    return len(words) <= length and not any(part in ties for part in parts)


def _exclude(one: Words, other: Words, holders: Mapping[Words, set[int]]) -> bool:
    """Whether they begin and end differently, and hardly ever stand in one caption."""
    if one[0] == other[0] or one[-1] == other[-1]:
        return False
    both = len(holders[one] & holders[other])
    return both <= _TOGETHER * min(len(holders[one]), len(holders[other]))


def _grouped(
    ties: Mapping[Words, Mapping[Words, float]], counts: Mapping[Words, int]
) -> Iterator[list[Words]]:
    """Each value in one group: the most frequent takes what is tied to it, and so on."""
    order = sorted(ties, key=lambda words: (-counts[words], words))
    groups: list[list[Words]] = []
    taken: set[Words] = set()
    for words in order:
        own = ties[words]
        free = [other for other in own if other not in taken and own[other] >= _weakest(own)]
        if words in taken or not free:
            continue
        free.sort(key=lambda other: (-own[other], other))
        group = [words, *free[: MOST_VALUES - 1]]
        groups.append(group)
        taken.update(group)
    for words in order:  # whose ties are all to values that others took
        if words not in taken:
            best = max(groups, key=lambda group: sum(ties[words].get(v, 0.0) for v in group))
            if len(best) < MOST_VALUES:
                best.append(words)
    for group in groups:
        yield sorted(group, key=lambda words: (-counts[words], words))


def _weakest(own: Mapping[Words, float]) -> float:
    return _WEAK * max(own.values())


def _tokens(text: str) -> list[str]:
    """Words and punctuation; none of a script without spaces, whose words no rule finds."""
    return [] if holds_unspaced(text) else _TOKEN.findall(text.casefold())


def _spans(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """What could be a value: up to three words that begin and end with one that names something."""
    for start, first in enumerate(tokens):
        if not is_content(first):
            continue
        for end in range(start + 1, min(start + _MOST_WORDS, len(tokens)) + 1):
            last = tokens[end - 1]
            if not any(map(str.isalnum, last)):
                break
            if is_content(last):
                yield start, end


def _forms(texts: Iterable[str]) -> dict[str, str]:
    """Each word as it is written most often."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for token in _TOKEN.findall(text):
            seen[token.casefold()][token] += 1
    return {word: forms.most_common(1)[0][0] for word, forms in seen.items()}
