"""What indexes of a hundred thousand to billions of images take, on paper, from measured rates.

    OMP_NUM_THREADS=2 python benchmarks/scale.py --pictures-per-second 8.0 --read-gb 1.2 --price 3

How many pictures a device indexes in a second is measured elsewhere (docs/performance.md), and so
is what a disk reads; what a device costs is given; products of the kernel and of a question are
timed here, on this machine. Everything is linear in the images but the inversion of the kernel, so
paper is enough. The first table is of the default, whose rows are in the metric of a curvature and
have no kernel.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from headwater.evaluation.reporting.results import circumstances, markdown
from headwater.index.config import CURVED_DIM
from headwater.index.curvature.fit import MOST_IMAGES
from headwater.index.estimate import kernel_seconds, least_seconds

SIZES = {"100,000": 1e5, "1 million": 1e6, "100 million": 1e8, "5.8 billion": 5.8e9}
ROW = 12 + 4 * 10  # bytes beside the features: scale, position, residuals of ten probes
DRAWS = 32


def main() -> None:
    command = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--pictures-per-second", type=float, default=8.0, help="of one device")
    command.add_argument("--read-gb", type=float, default=1.2, help="a second, of one machine")
    command.add_argument("--price", type=float, default=3.0, help="dollars an hour of one device")
    command.add_argument("--dims", type=int, nargs="+", default=[8192, 1024], help="with a kernel")
    given = command.parse_args()
    for dim, kernel in [(CURVED_DIM, False), *((dim, True) for dim in given.dims)]:
        print(f"\n{dim:,} features an image, {'a kernel' if kernel else 'a curvature'}\n")
        print(markdown([row(name, int(n), dim, kernel, given) for name, n in SIZES.items()]))
    print(circumstances()["machine"])


def row(
    name: str, images: int, dim: int, kernel: bool, given: argparse.Namespace
) -> dict[str, Any]:
    """What so many images take."""
    size = images * (2 * dim + ROW)
    read = size / given.read_gb / 1e9
    # two passes over half of the images that a curvature is fitted on
    passed = images + (0 if kernel else min(images, MOST_IMAGES))
    hours = passed / given.pictures_per_second / 3600
    made = {"kernel, hours of one machine": f"{(kernel_seconds(images, dim) + read) / 3600:,.1f}"}
    return {
        "images": name,
        "features": in_bytes(size),
        "device-hours to index": f"{hours:,.0f}",
        f"at {given.price:g} dollars an hour": f"{hours * given.price:,.0f}",
        **(made if kernel else {}),
        "a question, minutes of one machine": f"{(asked(images, dim) + read) / 60:,.1f}",
    }


def asked(images: int, dim: int) -> float:
    """Seconds of the products of a question's draws with all rows."""
    block, psi = torch.randn(1024, dim), torch.randn(dim, DRAWS)
    return least_seconds(lambda: block @ psi) / 1024 * images


def in_bytes(count: float) -> str:
    """In GB or TB.

    >>> in_bytes(1.64e9), in_bytes(9.5e13)
    ('1.6 GB', '95.0 TB')
    """
    return f"{count / 1e9:.1f} GB" if count < 1e12 else f"{count / 1e12:.1f} TB"


if __name__ == "__main__":
    main()
