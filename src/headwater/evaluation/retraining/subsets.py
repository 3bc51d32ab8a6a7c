"""Which images the retrained models see."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool


def halves(n: int, count: int, seed: int = 0) -> Bool[np.ndarray, "m n"]:
    """`count` independent random halves of n images: exactly n // 2 of each row are True.

    Row i depends on (n, seed, i) alone, so asking for more later keeps the first ones. It comes
    from the raw output of a counter-based generator, which NumPy promises never to change: a run
    that goes on under another version retrains on the same halves.
    """
    if n < 2 or count < 1 or seed < 0:
        raise ValueError(f"halves({n=}, {count=}, {seed=}): needs n >= 2, count >= 1, seed >= 0")
    chosen = np.zeros((count, n), bool)
    for index, row in enumerate(chosen):
        draws = np.random.Philox(key=np.array([seed, index], np.uint64)).random_raw(n)
        row[np.argsort(draws, kind="stable")[: n // 2]] = True
    return chosen
