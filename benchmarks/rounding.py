"""What of the scores is kept by rows that are stored in 16 bits, and multiplied in so many?

Rows are stored in float16, with a scale each, and multiplied in float32. Beside it bfloat16, which
needs no scale and has three bits less: only stored in it, or multiplied in it too, questions
rounded likewise and sums in float32, as processors that have such products do. Exact are scores of
float32 rows, in float64. With a kernel: it is made of the rounded rows too.

Rows are gradients of the scenes by the bundled model's `attn2`, means of ten timesteps. Asked are
held-out pictures and concepts of captions.

    export OMP_NUM_THREADS=1
    python benchmarks/rounding.py [--pictures 1000] [--folder KEPT]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from large_kernel import DAMPING, compared
from real_rows import from_command_line
from torch import Tensor

from headwater.evaluation.reporting.results import circumstances, markdown

Rounded = Callable[[Tensor], Tensor]


def scaled_float16(rows: Tensor) -> Tensor:
    """As the library stores them."""
    scale = rows.square().mean(1, keepdim=True).sqrt()
    return (rows / scale).half().double() * scale.double()


def bfloat16(rows: Tensor) -> Tensor:
    """To seven bits behind the first."""
    return rows.bfloat16().double()


# How rows are kept, and how a question is before it is multiplied.
FORMS: dict[str, tuple[Rounded, Rounded]] = {
    "float16 with a scale, products in float32": (scaled_float16, torch.Tensor.double),
    "bfloat16, products in float32": (bfloat16, torch.Tensor.double),
    "bfloat16, products in bfloat16": (bfloat16, bfloat16),
}


def whitened(asked: Tensor, rows: Tensor) -> Tensor:
    """K^-1 psi at the usual damping, by the smaller of the two matrices (Woodbury)."""
    products = rows @ rows.T / len(rows)
    damping = DAMPING * products.trace() / min(rows.shape)
    damped = products + damping * torch.eye(len(rows), dtype=rows.dtype)
    within = torch.linalg.solve(damped, rows @ asked.T / len(rows))
    return (asked - within.T @ rows) / damping


def lines(rows: Tensor, asked: Tensor) -> list[dict[str, Any]]:
    """Each form beside the exact scores, without a kernel and with one."""
    exact = {
        "dot": asked.double() @ rows.double().T,
        "trak": whitened(asked.double(), rows.double()) @ rows.double().T,
    }
    found = []
    for name, (kept, put) in FORMS.items():
        own = kept(rows)
        questions = {"dot": asked.double(), "trak": whitened(asked.double(), own)}
        for rule, psi in questions.items():
            scores = put(psi.float()) @ own.T
            found.append({"rows": name, "rule": rule, **compared(scores, exact[rule])})
    return found


def main() -> None:
    made = from_command_line(__doc__, 1_000)
    rows, asked = made["rows"].float().mean(1), made["pictures"].float().mean(1)
    for what, questions in {"pictures": asked, "concepts": made["concepts"].float()}.items():
        print(f"\n{len(rows):,} rows, {len(questions)} {what}\n")
        print(markdown(lines(rows, questions)))
    print(circumstances()["machine"])


if __name__ == "__main__":
    main()
