"""What was measured of a method, in a sentence or two: how far its answers can be trusted.

Every number stands in docs/methods.md or docs/results.md too, with the command that makes it.
"""

from __future__ import annotations

# By method; where one has none, its answers were not held against retraining on their own.
EVIDENCE = {
    "concept-trak-unguided": (
        "On 30 concepts of small drawn scenes, the ten highest images were right in 0.967 of cases "
        "and scores told the concept from the rest of the prompt (isolation 0.83). What models "
        "lacked that were trained without some images, such scores did not foretell."
    ),
    "concept-d-trak": (
        "On real drawings scores told concepts from the rest of the prompt better than those of "
        "Concept-TRAK (isolation 0.35 and 0.09); captions that name a concept find more images."
    ),
    "presence": (
        "On small drawn scenes the ten highest images were right in 0.98 of cases, and in 0.96 "
        "among images that no caption names; captions in 0.93 and 0.04."
    ),
    "ekfac": (
        "On small drawn scenes, asked what a concept's words gain, scores agreed with what models "
        "lacked that were trained without images at a rank correlation of 0.26 and 0.18, of two "
        "models (captions 0.09 and 0.10)."
    ),
    "ekfac-presence": (
        "On small drawn scenes scores agreed with what models lacked that were trained without "
        "images at a rank correlation of 0.35 and 0.28, of two models (captions 0.09 and 0.10). "
        "On real drawings, asked on pictures that the model "
        "made, 0.38 of the ten highest images showed the concept; captions that name it found "
        "0.86. It is no list to make a model forget by: without the 200 highest of 1,000 images "
        "concepts were drawn with a rate of 0.57, where it had been 0.74; without all images "
        "that captions name, with 0.31."
    ),
    "metagradient": (
        "For small adapters trained again without some images from the same seed, scores agreed "
        "with what changed at a rank correlation of 0.71 to 0.82 (loss) and 0.67 to 0.76 "
        "(contribution); from another seed no better than EK-FAC."
    ),
    "das": "Of pictures that training had seen thirty times, it found 0.93 of the copies.",
    "guda": "It named the group that retraining names in 7 of 8 cases.",
    "trak": (
        "On photographs its answers for whole pictures agreed with retraining to a third of what "
        "noise allows, at most."
    ),
}  # fmt: skip
NOT_MEASURED = (
    "How far answers of this method agree with models trained without the images was not measured "
    "on its own."
)


def evidence(method: str) -> str:
    """What was measured of a method, on models and data that are not these.

    >>> evidence("guda")
    'It named the group that retraining names in 7 of 8 cases.'
    """
    return EVIDENCE.get(method, NOT_MEASURED)
