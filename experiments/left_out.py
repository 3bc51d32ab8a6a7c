"""A LoRA of 40 pictures: is it known beforehand what it lacks without one, five or ten of them?

Adapters are trained on top of the bundled model on 40 scenes of an object that it never saw (300
steps of four pictures, AdamW at 1e-3, the loss of noise), and again without some of the pictures:
with the same seed (the same weights to begin with, batches and noise, in which the pictures left
out do not count), and with another. What is measured is the loss on 40 other pictures of the
object, by pairs of its colours, and what the object's word gains there. What is asked is the model
of all 40: by EK-FAC and a plain dot product at its end, as `headwater index` builds them, and by
the derivative of the recorded training, of all its steps or of the last: as it is computed here,
training by training side by side, and as `headwater.Recorder` and the method metagradient do.

    export OMP_NUM_THREADS=1
    python experiments/left_out.py check      the derivative beside finite differences, in float64,
                                              and the library's beside that
    python experiments/left_out.py models     train and measure; about an hour of a core
    python experiments/left_out.py tables     ask and compare

Everything lies in `experiments/results/left-out`.
"""

from __future__ import annotations

import numpy as np
import torch
from common import parser
from left_out_models import SEEDS, check, check_library, measured_of
from left_out_tables import tables


def main() -> None:
    given = parser(__doc__, "check", "models", "tables").parse_args()
    torch.set_num_threads(1)
    if given.stage == "check":
        check()
        check_library()
        return
    measured = np.stack([measured_of(seed) for seed in SEEDS])  # [seeds, trainings, outputs, pairs]
    if given.stage == "tables":
        tables(measured, given)


if __name__ == "__main__":
    main()
