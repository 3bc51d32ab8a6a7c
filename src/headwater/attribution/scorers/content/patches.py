r"""How much of each patch of a noisy picture is owed to each training image, by Bayes' rule.

Seen patch by patch, the optimal denoiser of a set of images is known in closed form (Kamb and
Ganguli 2024; 2510.14269, section 3): at x_t = a x0 + s e the patch q of image i explains the patch
p of x_t with the probability

    w(p; i, q) = softmax over all (i, q) of  -||x_t[p] - a x_i[q]||^2 / (2 s^2).

An image owns of p what its `best` most probable patches have of this. Images are read block by
block; the softmax over all of them is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# An image whose share of a patch is below e^-30 of what was seen so far is not looked at closely:
# a float32 that holds the sum has no room for it.
NEGLIGIBLE = 30.0
# Patches that reach beyond the border unlike each other are apart by the square of this for each
# value that one has and the other lacks (as in the published code).
BEYOND = 10.0
# Numbers that the table (patches of the picture) x (training images) may hold at a time: 256 MiB.
TABLE = 64 * 2**20

Images = Callable[[], Iterator[tuple[int, Float[Tensor, "c h w"]]]]


@dataclass(frozen=True)
class Patches:
    """Square patches around every pixel of a picture.

    Args:
        side: pixels a side.
        scale: how far these pixels lie apart. Each is then `scale` times the mean of a square of so
            many a side, so that noise keeps its variance: a patch of side * scale pixels, seen
            smaller.
        best: how many patches of an image count for each patch of the picture.
    """

    side: int = 7
    scale: int = 1
    best: int = 100

    def of(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p d"]:
        """The patch around each pixel, row by row; 0 beyond the border.

        >>> Patches(3).of(torch.ones(1, 1, 2, 2)).sum(2)
        tensor([[4., 4., 4., 4.]])
        """
        reach = self.side * self.scale - 1
        before, after = reach // 2, reach - reach // 2
        padded = F.pad(pixels, (before, after, before, after))
        if self.scale > 1:
            padded = self.scale * F.avg_pool2d(padded, self.scale, stride=1)
        return F.unfold(padded, self.side, dilation=self.scale).transpose(1, 2)

    def distances(
        self, one: Float[Tensor, "c h w"], other: Float[Tensor, "c j i"]
    ) -> Float[Tensor, "p q"]:
        """||x[p] - y[q]||^2 of all patches of two pictures, without what is beyond the border."""
        return _squared_distances(self.of(one[None])[0], self.of(other[None])[0])

    def border(
        self, one: Float[Tensor, "c h w"], other: Float[Tensor, "c j i"]
    ) -> Float[Tensor, "p q"]:
        """What comes to `distances` of reaching beyond the border unlike each other."""
        return BEYOND**2 * self.distances(torch.ones_like(one), torch.ones_like(other))


def _squared_distances(
    one: Float[Tensor, "p d"], other: Float[Tensor, "q d"]
) -> Float[Tensor, "p q"]:
    inner = one @ other.T
    return inner.mul_(-2).add_(one.square().sum(1)[:, None]).add_(other.square().sum(1))


@dataclass(frozen=True)
class Noisy:
    """A picture at x_t = a x0 + s e.

    Attributes:
        patches: numbers of those that are asked about, row by row.
    """

    pixels: Float[Tensor, "c h w"]
    a: float
    s: float
    patches: Int[Tensor, " m"]


@dataclass(frozen=True)
class Owned:
    """What training images own of the patches of a picture.

    Attributes:
        shares: of each image the sum over patches of what it owns of them; together at most the
            number of patches.
        at: the patch that it owns most of, numbered row by row.
        most: how much of that one it owns.
    """

    shares: Float[Tensor, " n"]
    at: Int[Tensor, " n"]
    most: Float[Tensor, " n"]


def owned(noisy: Noisy, images: Images, count: int, patches: Patches) -> Owned:
    """What each of `count` training images owns of a noisy picture.

    Args:
        images: opens them anew: (row, clean pixels) one by one, on the device of the noisy picture.
            It is called once for each part of the patches that `TABLE` has room for.
    """
    found = Owned(torch.zeros(count), torch.zeros(count, dtype=torch.long), torch.zeros(count))
    for part in noisy.patches.split(max(1, TABLE // count)):
        weights = _weights(noisy, part, images, count, patches).cpu()
        most, which = weights.max(0)
        better = most > found.most
        found = Owned(
            found.shares + weights.sum(0),
            torch.where(better, part.cpu()[which], found.at),
            torch.where(better, most, found.most),
        )
    return found


def _weights(
    noisy: Noisy, part: Int[Tensor, " m"], images: Images, count: int, patches: Patches
) -> Float[Tensor, "m n"]:
    """What each image owns of each of these patches."""
    x, a, s = noisy.pixels, noisy.a, noisy.s
    ours = patches.of(x[None])[0, part]
    own = x.new_full((len(part), count), -torch.inf)  # log of what an image's best patches sum to
    total = x.new_full((len(part),), -torch.inf)  # log of what all patches seen so far sum to
    borders: dict[torch.Size, Tensor] = {}
    for row, pixels in images():
        if pixels.shape not in borders:
            borders[pixels.shape] = patches.border(x, pixels)[part]
        logits = _squared_distances(ours, patches.of(a * pixels[None])[0])
        logits = logits.add_(borders[pixels.shape]).div_(-2 * s**2)
        whole = _log_sum_exp(logits)
        total = torch.logaddexp(total, whole)
        own[:, row] = whole  # an upper bound, and that is enough where it is nothing
        near = whole > total - NEGLIGIBLE
        if patches.best < logits.shape[1]:
            own[near, row] = _log_sum_exp(logits[near].topk(patches.best, sorted=False).values)
    return (own - total[:, None]).exp()


def _log_sum_exp(logits: Float[Tensor, "m q"]) -> Float[Tensor, " m"]:
    """Log sum exp, up to e^-60 of it: an exponential that underflows takes thirty times as long."""
    highest = logits.amax(1, keepdim=True)
    shifted = (logits - highest).clamp_min_(-2 * NEGLIGIBLE)
    return shifted.exp_().sum(1).log_() + highest[:, 0]
