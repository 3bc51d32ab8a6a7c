"""Give the measured models of `results/scenes` the keys that this version has for them.

    python experiments/rekey.py OLD [--write]

A key names fingerprints of what was trained on and of the full model. Where a version of headwater
makes other fingerprints of the same things, its commands refuse what was measured before. OLD is
what the version that wrote the keys says of the full model,

    python -c "import headwater; print(headwater.Denoiser.load(
        'experiments/results/scenes/removed/models/full').fingerprint())"

so that every key is first made again as it was: one that was not of this model stops it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scenes_sizes import data_of

from headwater import Denoiser
from headwater.evaluation.counterfactual.regenerate import SAMPLER, ConceptPrompts, PictureFile
from headwater.evaluation.retraining.retrain import encoding_source
from headwater.storage.files import write_text

SCENES = Path(__file__).parent / "results" / "scenes"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", help="fingerprint of the full model by the version before")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    source = encoding_source(Denoiser.load("scenes"), data_of(full=False))
    now = Denoiser.load(SCENES / "removed" / "models" / "full").fingerprint()
    files = sorted(SCENES.glob("**/outputs/*.json"))
    for file in files:
        written = json.loads(file.read_text())
        key, measured = written["key"], written["key"]["measured"]
        key["data"] = source
        if "before" in measured:
            if pictures_of(measured, given.old) != measured["before"]:
                print(f"{file} is of another full model than {given.old}")
                return 1
            measured["before"] = pictures_of(measured, now)
        if given.write:
            write_text(file, json.dumps(written))
    print(f"{len(files)} keys" + ("" if given.write else " (not written: give --write)"))
    return 0


def pictures_of(measured: dict, fingerprint: str) -> str:
    """The name of the full model's pictures of the prompts that a key holds."""
    names = ("concept", "prompts", "naming", "seeds")
    concept, prompts, naming, seeds = (measured[name] for name in names)
    asked = ConceptPrompts(concept, tuple(prompts), naming, tuple(seeds))
    facts = ([fingerprint], "None", asked.facts(), SAMPLER.steps, SAMPLER.guidance)
    return PictureFile(SCENES, facts, concept).name


if __name__ == "__main__":
    sys.exit(main())
