"""Scores against the formula with an explicit float64 inverse; one Gram matrix for all."""

from functools import partial

import pytest
import torch

from headwater.attribution import gram, kernel
from headwater.errors import NonFiniteError, ResourceError


def blocks_of(phi, rows=7):
    return lambda: phi.split(rows)


def scores(phi, psi, ratio, rows=7, **more):
    return kernel.kernel_of(blocks_of(phi, rows), *phi.shape, **more).trak(psi, [ratio])[0]


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
    assert gram.gram(blocks_of(phi), n, k).dual == (n < k)
    ours = scores(phi, psi, ratio)
    torch.testing.assert_close(ours.double(), brute_force(phi, psi, ratio), rtol=2e-4, atol=2e-4)


def test_primal_and_dual_agree():
    """Of as many rows as features, whichever is taken."""
    phi, psi = torch.randn(30, 30), torch.randn(2, 30)
    blocks, primal = blocks_of(phi), scores(phi, psi, 0.1)
    found = gram.Gram((phi @ phi.T / 30).double(), dual=True)

    def inverse(ratio):
        return gram.Inverse(found.factor(ratio))

    each = partial(kernel.over, blocks, 30)
    dual = kernel.Kernel(blocks, each, 30, True, lambda: found, inverse, found.spectrum)
    for ratios in ([0.1], [0.1, 2.0]):  # by a factor, by the spectrum
        torch.testing.assert_close(dual.trak(psi, ratios)[0], primal, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)])
def test_one_damping_and_several_are_two_ways_to_the_same(n, k):
    phi, psi, ratios = torch.randn(n, k), torch.randn(2, k), [0.01, 0.1, 5.0]
    found = kernel.kernel_of(blocks_of(phi), n, k)
    together = found.trak(psi, ratios)
    for ratio, scores in zip(ratios, together, strict=True):
        torch.testing.assert_close(found.trak(psi, [ratio])[0], scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            scores.double(), brute_force(phi, psi, ratio), rtol=1e-4, atol=1e-4
        )


def test_a_kernel_without_an_inverse_says_so():
    """Fewer directions than features, and no damping; or features that are no numbers."""
    phi = torch.randn(50, 3).repeat(1, 2)
    with pytest.raises(NonFiniteError, match="no inverse at --damping 0: raise it"):
        scores(phi, torch.randn(1, 6), 0.0)
    phi[3, 2] = torch.nan
    with pytest.raises(NonFiniteError, match=r"no inverse at --damping 0\.1"):
        scores(phi, torch.randn(1, 6), 0.1)


def test_a_kernel_that_has_no_room_is_refused_before_rows_are_read(monkeypatch):
    def read():
        raise AssertionError("rows were read")

    monkeypatch.setattr(gram, "room_bytes", lambda device: 2**30)
    largest = int((2**30 / gram.HELD) ** 0.5)
    with pytest.raises(AssertionError, match="rows were read"):
        gram.gram(read, 10**9, largest)
    with pytest.raises(ResourceError, match=r"6,690 features takes 1\.0 GiB .* smaller --dim"):
        gram.gram(read, 10**9, 6_690)
    monkeypatch.setattr(gram, "room_bytes", lambda device: None)
    with pytest.raises(AssertionError, match="rows were read"):
        gram.gram(read, 10**9, 6_690)


@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)])
def test_large_damping_leaves_the_dot_product(n, k):
    phi, psi = torch.randn(n, k), torch.randn(1, k)
    ratio = 1e6
    found = scores(phi, psi, ratio) * gram.gram(blocks_of(phi), n, k).damping(ratio)
    torch.testing.assert_close(found, psi @ phi.T, rtol=1e-3, atol=1e-3)


def test_block_size_changes_nothing():
    phi, psi = torch.randn(23, 40), torch.randn(1, 40)
    one, many = (scores(phi, psi, 0.1, rows=rows) for rows in (23, 4))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-4)


# --- rows outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [1e-2, 0.1, 1.0])
@pytest.mark.parametrize("n, k", [(20, 50), (50, 20)])
def test_rows_outside_are_scored_by_the_kernel_of_the_others(n, k, ratio):
    scale = torch.logspace(0, -2, k)
    phi, psi = torch.randn(n, k) * scale, torch.randn(3, k) * scale
    inside = torch.arange(n) % 4 != 1
    rows, count = phi[inside].double(), int(inside.sum())
    ours = kernel.kernel_of(blocks_of(phi), count, k, inside=inside)

    gram = rows.T @ rows / count
    solve = torch.linalg.inv(gram + ratio * gram.trace() / min(count, k) * torch.eye(k))
    close = dict(rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(
        ours.trak(psi, [9.0, ratio])[1].double(), psi.double() @ solve @ phi.double().T, **close
    )
    norms = (phi.double() @ solve).norm(dim=1)
    torch.testing.assert_close(ours.solved_norms(ratio).double(), norms, **close)
    leverage = torch.einsum("ik,kl,il->i", phi.double(), solve, phi.double()) / count
    expected = torch.where(inside, leverage, 0.0)
    torch.testing.assert_close(ours.leverage(ratio).double(), expected, rtol=1e-3, atol=1e-5)


def test_a_row_inside_is_shrunk_by_its_leverage():
    """S = (1 - h) s', s' by K less the row's own part (Sherman-Morrison)."""
    phi, psi, n = torch.randn(20, 30), torch.randn(1, 30), 20
    found = kernel.kernel_of(blocks_of(phi), n, 30)
    whole = phi.double().T @ phi.double() / n
    whole = whole + 0.1 * whole.trace() / n * torch.eye(30)
    without = [
        psi.double() @ torch.linalg.inv(whole - torch.outer(row, row) / n) @ row
        for row in phi.double()
    ]
    corrected = found.trak(psi, [0.1])[0] / (1 - found.leverage(0.1))
    torch.testing.assert_close(corrected.double()[0], torch.cat(without), rtol=1e-3, atol=1e-3)


def test_with_every_row_inside_nothing_changes():
    for n, k in ((20, 50), (50, 20)):
        phi, psi, inside = torch.randn(n, k), torch.randn(2, k), torch.ones(n, dtype=torch.bool)
        one = kernel.kernel_of(blocks_of(phi), n, k)
        other = kernel.kernel_of(blocks_of(phi), n, k, inside=inside)
        close = dict(rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other.trak(psi, [0.1]), one.trak(psi, [0.1]), **close)
        torch.testing.assert_close(other.leverage(0.1), one.leverage(0.1), **close)
        torch.testing.assert_close(
            other.solved_norms(0.1), one.solved_norms(0.1), rtol=1e-3, atol=1e-4
        )


def test_the_matrix_is_made_strip_by_strip(monkeypatch):
    """Of any size, also one that is no multiple of a strip."""
    monkeypatch.setattr(gram, "STRIP", 3)
    for k in (1, 3, 8):
        phi = torch.randn(20, k)
        exact = phi.double().T @ phi.double() / 20
        found = gram.gram(blocks_of(phi), 20, k).matrix
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)
        assert torch.equal(found, found.T)


class Killed(Exception):
    pass


def test_a_matrix_goes_on_where_it_was_killed(monkeypatch):
    monkeypatch.setattr(gram, "SAVE_EVERY", -1)
    phi, kept = torch.randn(20, 4), []
    progress = gram.Progress(lambda: kept[-1] if kept else None, lambda *now: kept.append(now))

    def killed():
        for start, block in gram.placed(phi.split(7)):
            if start == 14:
                raise Killed
            yield block

    with pytest.raises(Killed):
        gram.gram(killed, 20, 4, progress=progress)
    assert [rows for rows, _ in kept] == [7, 14]
    later = phi.clone()
    later[:14] = torch.nan  # what is in the sum is not looked at again
    found = gram.gram(blocks_of(later), 20, 4, progress=progress).matrix
    torch.testing.assert_close(found, phi.double().T @ phi.double() / 20, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n, k", [(20, 5), (5, 20)])
def test_a_gpu_without_room_leaves_it_to_the_cpu(monkeypatch, n, k):
    phi, to = torch.randn(n, k), torch.Tensor.to

    def full(tensor, where, *more, **options):
        if where == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(tensor, where, *more, **options)

    monkeypatch.setattr(torch.Tensor, "to", full)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None, **how: zeros(*size, **how))
    found = gram.gram(blocks_of(phi), n, k, "cuda")
    assert found.dual == (n < k)
    exact = phi @ phi.T if n < k else phi.T @ phi
    torch.testing.assert_close(found.matrix.float(), exact / n)
