"""What the two ends of a ranking may be called, by what a method's scores measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """Words of a report.

    Attributes:
        top, bottom: what images at either end are called.
        top_means, bottom_means: what it says that they stand there; {name} is what was asked for.
        score: what a score is and what it is not, sentence by sentence.
        mixed_top_means: the same of a top where not every score is positive; "" if no different.
        positive_bottom_means: the same of a bottom where no score is negative; "" if no different.
        step_ends: what stands below each step of a journey, to end "below it training images:";
            "" for the highest scores, then the lowest.
        asks: what the answer's title asks, to end in what was asked for.
    """

    top: str
    bottom: str
    top_means: str
    bottom_means: str
    score: Sequence[str]
    mixed_top_means: str = ""
    positive_bottom_means: str = ""
    step_ends: str = ""
    asks: str = "Which training images taught the model"

    @property
    def one_top(self) -> str:
        """What one image at the top is called: "Proponent"."""
        return self.top.removesuffix("s")

    @property
    def one_bottom(self) -> str:
        """What one image at the bottom is called: "Opponent"."""
        return self.bottom.removesuffix("s")


_ESTIMATE = (
    "A score is an estimate, computed from gradients of the model, of how much training on one "
    "image changed what the model does. It is evidence, not proof: to prove influence, one would "
    "have to train the model again without the image."
)

WORDING = {
    "influence": Wording(
        "Proponents",
        "Opponents",
        "Training on these images pushes the model towards {name}.",
        "Training on an image with a negative score pushes the model away from {name}.",
        (
            _ESTIMATE,
            "A positive score marks a proponent: training on the image pushes the model towards "
            "what was asked for. A negative score marks an opponent: training on it pushes the "
            "model away.",
            "Opponents often show what was asked for as well. A trained model is near a balance of "
            "pushes, and they pull it another way.",
        ),
        mixed_top_means="Training on those of these images with a positive score pushes the model "
        "towards {name}.",
        positive_bottom_means="These are the lowest scores, but none is negative: no image is an "
        "opponent.",
        step_ends="those that pushed it there, the strongest first, then those that pushed it "
        "away.",
    ),
    "influence with presence": Wording(
        "Proponents",
        "Opponents",
        "Without these images, by this estimate, the model would gain less by the words {name}.",
        "Without an image with a negative score it would gain more by them, by this estimate. Many "
        "such show {name} and do not say so, which teaches the model to draw it without the words.",
        (
            "A score is a sum of two, each with standard deviation 1 over all images, so that no "
            "score says how much. One is an estimate, computed from gradients, of how much less "
            "the model would gain by the words if it had not been trained on the image.",
            "The other is of what the image says and shows: positive where its caption names what "
            "was asked for, negative where the model sees it and the caption names nothing of its "
            "kind, and zero else.",
            "Images need not show what was asked for to stand at the top: one that shows something "
            "else, under a caption without the words, taught the model what the words are told "
            "from.",
            "It is evidence, not proof: to prove influence, one would have to train the model "
            "again without the image.",
        ),
        mixed_top_means="Without those of these images with a positive score, by this estimate, "
        "the model would gain less by the words {name}.",
        positive_bottom_means="These are the lowest scores, but none is negative: no image is an "
        "opponent.",
    ),
    "strength": Wording(
        "Strongest influence",
        "Weakest influence",
        "Training on these images has the strongest influence on {name}. A score of this method is "
        "a square: it tells how strong the influence is, not whether it is towards or away.",
        "Training on these images has the weakest influence on {name}. None is an opponent: a "
        "square tells no direction.",
        (
            _ESTIMATE,
            "A score of this method is a square. It has no sign: an image with a high score may "
            "push the model towards what was asked for or away from it.",
        ),
    ),
    "captions": Wording(
        "Most in common",
        "Least in common",
        "These images have most in common, for the model, with those whose caption names {name}.",
        "These images have least in common, for the model, with those whose caption names {name}.",
        (
            "A score is a regression of what captions say on gradients of the model: how much an "
            "image has in common with those whose caption names what was asked for. An image whose "
            "own caption names it ranks high for that reason too.",
            "It is evidence, not proof: to prove influence, one would have to train the model "
            "again without the image.",
        ),
    ),
    "presence": Wording(
        "Shown most surely",
        "Shown least",
        "In these images the model itself sees {name} most surely. That is what they show, not "
        "what they taught the model.",
        "In these images the model sees something else in the place of {name}.",
        (
            "A score says by how much what was asked for, in the image's own caption, explains the "
            "image better to the model than what could stand in its place: above 0 the model sees "
            "it there.",
            "It tells what an image shows, in the model's own eyes. It is content, not influence, "
            "and says nothing of how much the image taught the model.",
            "Where the model draws something badly, it sees it badly too.",
        ),
        asks="Which training images show the model",
    ),
    "similarity": Wording(
        "Most similar",
        "Least similar",
        "These images are the most similar to {name}. Nothing was asked of the model.",
        "These images are the least similar to {name}.",
        (
            "A score says how alike an image and what was asked for are. It says nothing of what "
            "the model learned from the image.",
        ),
    ),
    "skew": Wording(
        "Forgotten with it",
        "Kept without it",
        "Of these images the model forgets most when it is made to forget {name}.",
        "Of these images the model forgets least when it is made to forget {name}; where a score "
        "is negative, it knows them better then.",
        (
            "A score is how much the model's error for an image rises, beside the error itself, "
            "when the model is made to forget what was asked for: from -1 to 1.",
            "What is forgotten together need not have been learned from each other. It is "
            "evidence, not proof: to prove influence, one would have to train the model again "
            "without the image.",
        ),
    ),
    "groups": Wording(
        "Of the groups that count most",
        "Of the groups that count least",
        "These images are of the groups without which the model would know least of {name}.",
        "These images are of the groups without which the model would know {name} nearly as well, "
        "or better.",
        (
            "A score is that of an image's group: how much less likely the picture is when the "
            "model is made to forget the whole group. Images of one group have one score.",
            "It is evidence, not proof: to prove influence, one would have to train the model "
            "again without the group.",
        ),
    ),
    "patches": Wording(
        "Most of its patches",
        "Fewest of its patches",
        "These images explain most patches of {name}. Nothing was asked of the model.",
        "These images explain the fewest patches of {name}.",
        (
            "A score counts the patches of the picture that an image explains: seen through noise, "
            "with what probability each is a patch of this image, and not of another. It says "
            "nothing of what the model learned from the image: the model was not asked.",
        ),
    ),
    "chance": Wording(
        "Highest",
        "Lowest",
        "The scores are random numbers, to compare other methods with.",
        "The scores are random numbers.",
        ("The scores are random numbers. Neither a high nor a low one means anything.",),
    ),
}
_STANDARD_ERROR = (
    "The number after ± is a standard error: how much the score would change if the question "
    "were put with other random draws."
)
_ALWAYS = (
    "Scores compare within one answer only. The same number under another question, method or "
    "model says something else, and a score is not a percentage.",
    "Pictures that look alike are not necessarily influential, and influential pictures need not "
    "look alike.",
    "Near-copies of an image, if they rank above the last image shown, stand with it as one entry. "
    "They keep their own ranks, so the numbers may skip.",
)


def how_to_read(measure: str, *, errors: bool) -> list[str]:
    """How to read a report, sentence by sentence; `errors`: whether scores have standard errors.

    >>> how_to_read("chance", errors=False)[0]
    'The scores are random numbers. Neither a high nor a low one means anything.'
    """
    return [*WORDING[measure].score, *([_STANDARD_ERROR] if errors else []), *_ALWAYS]


def said_candidates(
    count: int, images: int, candidates: str | None, chosen: Sequence[str] = ()
) -> str:
    """That not all images competed, in a sentence.

    Args:
        candidates: as `--candidates` has it; None where none were chosen by likeness.
        chosen: by what else, each to go on from "those".
    """
    by = [*chosen]
    if candidates is not None and candidates.startswith("presence"):
        by.append(f"in which the model sees most surely what was asked for ({candidates})")
    elif candidates is not None:
        by.append(f"most similar to what was asked for ({candidates})")
    return (
        f"Only {count:,} of the {images:,} images competed, those {', '.join(by)}. All others rank "
        "below them, whatever they score."
    )


def said_left_out(measure: str) -> str:
    """What the scores of images that were left out, summed, foretell of a model without them.

    >>> said_left_out("influence").split(":")[0]
    'To first order that is what the model would lack without them'
    """
    if measure == "influence":
        return (
            "To first order that is what the model would lack without them: an estimate, which "
            "only training it again would prove."
        )
    if measure == "influence with presence":
        return (
            "A score of this method adds a first-order estimate and what is seen, each on a scale "
            "of its own: the sum says whether the model would gain less without them, not by how "
            "much, and only training it again would prove it."
        )
    return "Scores of this method do not foretell by how much the model would change without them."


_NO_INFLUENCE = ("presence", "similarity", "patches", "chance")


def does_not_say(measure: str, evidence: str, images: int) -> list[str]:
    """What an answer does not say, point by point, for people who would act on it.

    Args:
        measure: a key of `WORDING`.
        evidence: what was measured of the method, in sentences.
        images: how many have a score.

    >>> does_not_say("similarity", "", 20)[0]
    'It does not say what the model learned from these images: the method does not ask that.'
    """
    if measure in _NO_INFLUENCE:
        first = "what the model learned from these images: the method does not ask that."
    else:
        first = (
            "that the model would be another without these images. That is proven by training it "
            f"again without them, and a score only estimates it. {evidence}".rstrip()
        )
    return [
        f"It does not say {first}",
        "It does not say that a picture is a copy of an image. One that taught the model much may "
        "look like nothing in the picture, and one that looks alike may have taught it little.",
        "It does not say how much of a picture is owed to an image. Scores are no percentages, do "
        "not add up to the picture, and compare within this answer only.",
        f"It does not say that other images had no part. All {images:,} have a score, of which a "
        "few are shown.",
        "It says nothing of who made an image, who has rights in it, and whether it was used "
        "lawfully.",
    ]


def does_not_say_in_short(measure: str) -> str:
    """The same in one sentence, for a first page.

    >>> does_not_say_in_short("similarity")[:52]
    'It does not say what the model learned from an image'
    """
    if measure in _NO_INFLUENCE:
        first = "what the model learned from an image"
    else:
        first = "that the model would be another without an image (only training it again would)"
    return (
        f"It does not say {first}, that a picture is a copy of one or how much of it is owed to "
        "one, that other images had no part, nor who made an image and who has rights in it."
    )
