"""Patches against explicit loops in float64: every pixel of every pair, and one softmax."""

import math

import pytest
import torch

from headwater.attribution.scorers.content import patches as module
from headwater.attribution.scorers.content.patches import BEYOND, Noisy, Patches, owned

A, S = 0.6, 0.8


def value(picture, channel, y, x, scale):
    """The pixel there, a square of `scale` pixels seen as one; (value, share of it beyond)."""
    _, height, width = picture.shape
    total = beyond = 0.0
    for dy in range(scale):
        for dx in range(scale):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                total += picture[channel, y + dy, x + dx].item()
            else:
                beyond += 1
    return total / scale, beyond / scale


def patch(picture, y, x, kind):
    """(values, values of the border) of the patch around a pixel."""
    before = (kind.side * kind.scale - 1) // 2
    return [
        value(picture, c, y - before + i * kind.scale, x - before + j * kind.scale, kind.scale)
        for c in range(picture.shape[0])
        for i in range(kind.side)
        for j in range(kind.side)
    ]


def every_patch(picture, kind):
    _, height, width = picture.shape
    return [patch(picture, y, x, kind) for y in range(height) for x in range(width)]


def brute_force(noisy, images, kind):
    """weights[p][i]: of each patch what the best of each image have of the softmax over all."""
    theirs = [every_patch(A * image, kind) for image in images]
    table = []
    for ours in every_patch(noisy, kind):
        powers = []
        for image in theirs:
            own = []
            for other in image:
                far = sum((x - y) ** 2 for (x, _), (y, _) in zip(ours, other, strict=True))
                far += sum(
                    (BEYOND * (b - c)) ** 2 for (_, b), (_, c) in zip(ours, other, strict=True)
                )
                own.append(-far / (2 * S**2))
            powers.append(own)
        highest = max(max(own) for own in powers)
        weights = [sorted((math.exp(p - highest) for p in own), reverse=True) for own in powers]
        total = sum(map(sum, weights))
        table.append([sum(own[: kind.best]) / total for own in weights])
    return torch.tensor(table, dtype=torch.float64)


def pictures(seed=0):
    """A noisy picture of 6 x 5 pixels, and three images, one of another size."""
    random = torch.Generator().manual_seed(seed)
    sizes = [(2, 6, 5), (2, 6, 5), (2, 4, 7)]
    images = [torch.randn(size, generator=random).clamp(-1, 1) for size in sizes]
    noise = torch.randn(sizes[0], generator=random)
    return A * images[0] + S * noise, images


@pytest.mark.parametrize("table", [10, 10**6], ids=["in parts", "at once"])
@pytest.mark.parametrize(
    "kind", [Patches(3, 1, 1), Patches(3, 1, 100), Patches(3, 2, 4), Patches(4, 1, 2)], ids=str
)
def test_shares_are_a_softmax_over_all_patches_of_all_images(kind, table, monkeypatch):
    monkeypatch.setattr(module, "TABLE", table)
    noisy, images = pictures()
    exact = brute_force(noisy, images, kind)
    found = owned(Noisy(noisy, A, S, torch.arange(30)), lambda: iter(enumerate(images)), 3, kind)
    torch.testing.assert_close(found.shares.double(), exact.sum(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.most.double(), exact.max(0).values, rtol=1e-4, atol=1e-6)
    assert found.at.tolist() == exact.argmax(0).tolist()
    if kind.best == 100:  # all patches there are
        assert found.shares.sum().item() == pytest.approx(30, rel=1e-4)


def test_a_part_of_the_patches():
    noisy, images = pictures(1)
    kind, asked = Patches(3), torch.tensor([7, 12, 13])
    exact = brute_force(noisy, images, kind)[asked]
    found = owned(Noisy(noisy, A, S, asked), lambda: iter(enumerate(images)), 3, kind)
    torch.testing.assert_close(found.shares.double(), exact.sum(0), rtol=1e-4, atol=1e-6)
    assert found.at.tolist() == asked[exact.argmax(0)].tolist()


def test_the_order_of_images_is_no_matter():
    """What is negligible beside the images seen so far may come before them."""
    noisy, images = pictures(2)
    far = [torch.full((2, 6, 5), 9.0), torch.full((2, 6, 5), -9.0)]
    kind = Patches(3, 1, 2)

    def shares(order):
        rows = [(row, (images + far)[row]) for row in order]
        return owned(Noisy(noisy, A, S, torch.arange(30)), lambda: iter(rows), 5, kind).shares

    ascending = shares([0, 1, 2, 3, 4])
    torch.testing.assert_close(shares([4, 3, 0, 2, 1]), ascending)
    assert ascending[:3].min() > 0 and ascending[3:].max() < 1e-12


def test_noise_keeps_its_variance_at_any_scale():
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    inner = Patches(3, 4).of(noise).reshape(64, 64, 9)[16:48, 16:48]
    assert inner.std().item() == pytest.approx(1, abs=0.05)
