"""Frechet distance between two sets of features (Heusel et al. 2017, eq. 6)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def frechet_distance(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"]) -> float:
    """|mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the FID where the features are Inception's.

    Means and unbiased covariances are the samples'; small samples lie further apart than their
    distributions do, so compare only distances of equally many rows. Fewer rows than features are
    allowed.

    Raises:
        ValueError: a set has fewer than two rows, or a value that is not finite.
    """
    for features in (first, second):
        if len(features) < 2 or not np.isfinite(features).all():
            raise ValueError(
                f"a Frechet distance needs two rows or more, all finite; got {features.shape}"
            )
    means = [features.mean(0, dtype=np.float64) for features in (first, second)]
    # C = R^T R, so tr (C1 C2)^(1/2) is the sum of the singular values of R1 R2^T: the roots of the
    # eigenvalues of the symmetric R1 C2 R1^T, without squaring what is then rooted. (sqrtm of
    # C1 C2, as commonly published, turns complex or fails where a covariance is singular.)
    roots = [
        np.linalg.qr(features - mean, mode="r") / np.sqrt(len(features) - 1)
        for features, mean in zip((first, second), means, strict=True)
    ]
    shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = np.square(roots[0]).sum() + np.square(roots[1]).sum()
    return max(float(np.square(means[0] - means[1]).sum() + spread - 2 * shared), 0.0)
