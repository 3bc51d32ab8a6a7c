"""Scores by their formula, with an explicit float64 inverse."""

import torch

from headwater.attribution import kernel
from headwater.attribution.scores import RULES


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


def kernel_of(phi, errors=None):
    """Of rows that come seven at a time."""
    return kernel.kernel_of(lambda: phi.split(7), *phi.shape, errors)


def scored(rule, phi, psi, errors=None, ratio=0.1):
    """What a rule scores."""
    return RULES[rule].score(kernel_of(phi, errors), psi, [ratio])[ratio]


def relative_error(ours, exact):
    return ((ours - exact).norm() / exact.norm()).item()
