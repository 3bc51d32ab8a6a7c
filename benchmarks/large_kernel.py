"""What of the scores is kept by a kernel of low rank, for one that does not fit into memory?

At the usual damping, beside the exact kernel: the matrix by its first eigenvectors alone. They are
the exact ones, and no randomised sketch of as many finds more (Eckart and Young 1936). What is left
of the spectrum counts as nothing, or as its mean.

Rows are gradients of the scenes by the bundled model's `attn2`, 4,096 features each: of one probe,
so that rows are many more than features. Asked are held-out pictures and concepts of captions.

    export OMP_NUM_THREADS=1
    python benchmarks/large_kernel.py [--pictures 2000] [--folder KEPT]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from real_rows import DIM, from_command_line
from torch import Tensor

from headwater.attribution import gram
from headwater.evaluation.reporting.results import circumstances, markdown

DAMPING, TOP = 0.1, 10
SHARES = (1 / 16, 1 / 4, 1 / 2, 3 / 4, 7 / 8)  # of the features


def low_rank(values: Tensor, rank: int, tail: bool) -> Tensor:
    """The spectrum by its highest values; the others are zero, or their mean."""
    rest = values[:-rank].mean() if tail else 0.0
    return torch.cat([torch.full_like(values[:-rank], float(rest)), values[-rank:]])


def compared(found: Tensor, exact: Tensor) -> dict[str, str]:
    """Scores [q, n] with the right ones: means over questions."""
    tops = zip(found.topk(TOP).indices, exact.topk(TOP).indices, strict=True)
    kept = torch.stack([torch.isin(one, other).double().mean() for one, other in tops]).mean()
    ranks = torch.stack([found, exact]).argsort(-1).argsort(-1).double()
    ranks -= ranks.mean(-1, keepdim=True)
    spearman = torch.nn.functional.cosine_similarity(*ranks, dim=-1).mean()
    off = ((found - exact).norm(dim=1) / exact.norm(dim=1)).mean()
    return {"top ten": f"{kept:.3f}", "Spearman": f"{spearman:.4f}", "off by": f"{off:.1e}"}


def lines(rows: Tensor, asked: Tensor) -> Iterator[dict[str, Any]]:
    """Everything in the basis of the eigenvectors, where the matrix is diagonal."""
    matrix = gram.gram(lambda: rows.split(4096), len(rows), DIM).matrix
    values, vectors = torch.linalg.eigh(matrix)
    own, questions = rows.double() @ vectors, asked.double() @ vectors
    damping = DAMPING * values.mean()
    exact = (questions / (values + damping)) @ own.T
    leverages = own.square() @ (1 / (values + damping)) / len(rows)
    print(f"{(values > damping).double().mean():.0%} of the eigenvalues are over lambda")
    for share in SHARES:
        for tail in (False, True):
            spectrum = low_rank(values, int(share * DIM), tail) + damping
            off = own.square() @ (1 / spectrum) / len(rows) / leverages
            yield {
                "": f"rank {share:.2f} k, the rest {'its mean' if tail else '0'}",
                "of the trace": f"{values[-int(share * DIM) :].sum() / values.sum():.3f}",
                **compared((questions / spectrum) @ own.T, exact),
                "leverages": f"{off.mean():.2f}",
            }


def main() -> None:
    found = from_command_line(__doc__, 2_000)
    rows = found["rows"].flatten(0, 1)
    asked = torch.cat([found["pictures"].mean(1), found["concepts"]])
    print(f"{len(rows):,} rows of {DIM:,}, {len(asked)} questions")
    print(markdown(list(lines(rows, asked))))
    print(circumstances()["machine"])


if __name__ == "__main__":
    main()
