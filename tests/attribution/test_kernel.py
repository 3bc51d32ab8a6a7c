"""Scores against the formula with an explicit float64 inverse; one eigendecomposition for all."""

import pytest
import torch

from headwater.attribution import kernel


def blocks_of(phi, rows=7):
    return lambda: phi.split(rows)


def scores(phi, spectrum, psi, ratio, rows=7):
    return kernel.Kernel(blocks_of(phi, rows), spectrum, ratio, len(phi)).trak(psi)


def brute_force(phi, psi, ratio):
    """psi^T (Phi^T Phi / n + lambda I)^-1 phi_i, lambda = ratio * trace / min(n, k)."""
    phi, psi = phi.double(), psi.double()
    n, k = phi.shape
    gram = phi.T @ phi / n
    damping = ratio * gram.trace() / min(n, k)
    return psi @ torch.linalg.inv(gram + damping * torch.eye(k)) @ phi.T


@pytest.mark.parametrize("ratio", [1e-2, 0.1, 1.0, 1e3])
@pytest.mark.parametrize("n, k", [(20, 50), (50, 20), (30, 30)])
def test_scores_equal_the_explicit_inverse(n, k, ratio):
    scale = torch.logspace(0, -2, k)  # eigenvalues over four orders of magnitude
    phi, psi = torch.randn(n, k) * scale, torch.randn(3, k) * scale
    spectrum = kernel.spectrum(blocks_of(phi), n, k)
    assert spectrum.dual == (n < k)
    ours = scores(phi, spectrum, psi, ratio)
    torch.testing.assert_close(ours.double(), brute_force(phi, psi, ratio), rtol=2e-4, atol=2e-4)


def test_primal_and_dual_agree():
    phi, psi = torch.randn(30, 30), torch.randn(2, 30)
    values, vectors = torch.linalg.eigh((phi @ phi.T / 30).double())
    dual = kernel.Spectrum(values.float(), vectors.float(), dual=True)
    primal = kernel.spectrum(blocks_of(phi), 30, 30)
    torch.testing.assert_close(
        scores(phi, dual, psi, 0.1),
        scores(phi, primal, psi, 0.1),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)])
def test_large_damping_leaves_the_dot_product(n, k):
    phi, psi = torch.randn(n, k), torch.randn(1, k)
    spectrum = kernel.spectrum(blocks_of(phi), n, k)
    ratio = 1e6
    found = scores(phi, spectrum, psi, ratio) * spectrum.damping(ratio)
    torch.testing.assert_close(found, psi @ phi.T, rtol=1e-3, atol=1e-3)


def test_block_size_changes_nothing():
    phi, psi = torch.randn(23, 40), torch.randn(1, 40)
    one = kernel.spectrum(blocks_of(phi, 23), 23, 40)
    many = kernel.spectrum(blocks_of(phi, 5), 23, 40)
    torch.testing.assert_close(
        scores(phi, one, psi, 0.1, rows=23),
        scores(phi, many, psi, 0.1, rows=4),
        rtol=1e-4,
        atol=1e-4,
    )
