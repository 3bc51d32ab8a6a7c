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


# --- rows outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1e-2, 0.1, 1.0])
@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)])
def test_rows_outside_are_scored_by_the_kernel_of_the_others(n, k, ratio):
    scale = torch.logspace(0, -2, k)
    phi, psi = torch.randn(n, k) * scale, torch.randn(3, k) * scale
    inside = torch.arange(n) % 4 != 1
    rows, count = phi[inside].double(), int(inside.sum())
    found = kernel.spectrum(kernel.inside_of(blocks_of(phi), inside), count, k)
    ours = kernel.Kernel(blocks_of(phi), found, ratio, count, inside=inside)

    gram = rows.T @ rows / count
    solve = torch.linalg.inv(gram + ratio * gram.trace() / min(count, k) * torch.eye(k))
    close = dict(rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(
        ours.trak(psi).double(), psi.double() @ solve @ phi.double().T, **close
    )
    norms = (phi.double() @ solve).norm(dim=1)
    torch.testing.assert_close(ours.solved_norms().double(), norms, **close)
    leverage = torch.einsum("ik,kl,il->i", phi.double(), solve, phi.double()) / count
    expected = torch.where(inside, leverage, 0.0)
    torch.testing.assert_close(ours.leverage().double(), expected, rtol=1e-3, atol=1e-5)


def test_a_row_inside_is_shrunk_by_its_leverage():
    """S = (1 - h) s', s' by K less the row's own part (Sherman-Morrison)."""
    phi, psi, n = torch.randn(20, 30), torch.randn(1, 30), 20
    found = kernel.Kernel(blocks_of(phi), kernel.spectrum(blocks_of(phi), n, 30), 0.1, n)
    whole = phi.double().T @ phi.double() / n
    whole = whole + 0.1 * whole.trace() / n * torch.eye(30)
    without = [
        psi.double() @ torch.linalg.inv(whole - torch.outer(row, row) / n) @ row
        for row in phi.double()
    ]
    corrected = found.trak(psi) / (1 - found.leverage())
    torch.testing.assert_close(corrected.double()[0], torch.cat(without), rtol=1e-3, atol=1e-3)


def test_with_every_row_inside_nothing_changes():
    for n, k in ((20, 50), (50, 20)):
        phi, psi, inside = torch.randn(n, k), torch.randn(2, k), torch.ones(n, dtype=torch.bool)
        found = kernel.spectrum(blocks_of(phi), n, k)
        one = kernel.Kernel(blocks_of(phi), found, 0.1, n)
        other = kernel.Kernel(blocks_of(phi), found, 0.1, n, inside=inside)
        close = dict(rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.trak(psi), one.trak(psi), **close)
        torch.testing.assert_close(other.leverage(), one.leverage(), **close)
        torch.testing.assert_close(other.solved_norms(), one.solved_norms(), rtol=1e-3, atol=1e-4)
