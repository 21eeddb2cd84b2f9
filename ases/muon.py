"""Muon: momentum whose matrices are made orthogonal, so that all directions of a map move alike
(Jordan et al. 2024).

PyTorch has it too, as ``torch.optim.Muon``, for one matrix at a time and always in bfloat16. Small
models have many small matrices, and few processors multiply bfloat16 fast: here matrices of one
shape are a batch, in float32 but on GPUs that have bfloat16. The tests compare the two.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

#: a·x + b·x³ + c·x⁵, five times, takes every singular value from 0.01 to 1 near 1 (Jordan).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ, roughly: singular values between 0.7 and 1.2.

    Newton and Schulz's iteration: an odd polynomial of a matrix works on its singular values.

    Args:
        matrices: (n, rows, columns); quicker where rows ≤ columns.
    """
    a, b, c = COEFFICIENTS
    bfloat16 = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = matrices.bfloat16() if bfloat16 else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For matrices alone; each is moved by lr · √max(1, rows / columns) times an orthogonal one.

    Args:
        params: matrices, or groups of them.
        lr: of the first step; a group's may change between steps.
        momentum: of the gradients' running mean, which looks one step ahead (Nesterov).
        weight_decay: a matrix also shrinks by the factor 1 − lr · weight_decay.
    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() != 2:
                    raise ValueError(f"Muon: a parameter of shape {tuple(p.shape)}; expected two")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # none has a closure
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            alike = defaultdict(list)  # (rows, columns), the smaller first → parameters
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(sorted(p.shape))].append(p)
            for params in alike.values():
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict) -> None:
        """Move matrices of one shape, some of them perhaps lying on their side."""
        lr, momentum = group["lr"], group["momentum"]
        grads = [p.grad for p in params]
        for p in params:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        means = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, means, momentum)
        wide = [x if x.shape[0] <= x.shape[1] else x.T for x in ahead]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for p, update in zip(params, orthogonalise(torch.stack(wide))):
            rows, columns = p.shape
            update = update if rows <= columns else update.T
            p.add_(update, alpha=-lr * math.sqrt(max(1, rows / columns)))
