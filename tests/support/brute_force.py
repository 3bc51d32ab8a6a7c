"""Scores by their formula, with an explicit float64 inverse."""

import torch

from headwater.attribution.kernel import Kernel, spectrum


def inverse(phi, ratio):
    """(Phi^T Phi / n + lambda I)^-1 in float64, lambda = ratio * trace / min(n, k)."""
    n, k = phi.shape
    gram = phi.T @ phi / n
    return torch.linalg.inv(gram + ratio * gram.trace() / min(n, k) * torch.eye(k))


def exact_scores(rule, phi, psi, ratio=0.1, errors=None):
    """What a rule says of rows phi for draws psi, row by row; `errors` are mses of probes."""
    phi, psi = phi.double(), psi.double()
    solve = inverse(phi, ratio)
    found = []
    for i, row in enumerate(phi):
        solved = solve @ row
        draws = torch.stack([draw @ (row if rule in ("dot", "cosine") else solved) for draw in psi])
        if rule == "cosine":
            draws = draws / (psi.mean(0).norm() * row.norm())
        if rule == "relative":
            draws = draws / solved.norm()
        if rule == "renormalised":
            draws = draws / row.norm()
        if rule in ("das", "das-l1", "das-code"):
            rms = errors[i].double().sqrt()
            draws = draws * sum(r / rms.square().sum().sqrt() for r in rms) / len(rms)
        if rule in ("das", "das-l1"):
            draws = draws / (1 - row @ solved / len(phi))
        if rule == "das-concept-trak":
            draws = draws * errors[i].double().mean()
        last = draws.mean().square() if rule in ("das-l1", "das-code") else draws.mean()
        found.append(draws.square().mean() if rule == "das" else last)
    return torch.stack(found)


def made(n, k):
    """Rows whose eigenvalues go over four orders of magnitude, draws, and errors of probes."""
    scale = torch.logspace(0, -2, k)
    phi, psi = torch.randn(n, k) * scale, torch.randn(3, k) * scale
    return phi, psi, torch.rand(n, 5)


def kernel_of(phi, ratio, errors=None, found=None):
    def blocks():
        return phi.split(7)

    return Kernel(blocks, found or spectrum(blocks, *phi.shape), ratio, len(phi), errors)


def relative_error(ours, exact):
    return ((ours - exact).norm() / exact.norm()).item()
