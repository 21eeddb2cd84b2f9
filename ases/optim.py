"""The two optimizers and the learning-rate schedule.

Muon orthogonalises the updates of matrices, so all directions move equally (Jordan et al.
2024). AdamW updates the rest. PyTorch's Muon takes one matrix at a time, always in bfloat16. Small
models have many small matrices, and few CPUs multiply bfloat16 fast: this Muon batches matrices of
one shape, in bfloat16 only on GPUs that support it. The tests compare the two.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ases.settings import Settings


def learning_rate_at(share: float, peak: float, warmup: float) -> float:
    """Linear warm-up to ``peak``, then cosine decay to zero; ``share`` of the budget: 0 to 1."""
    if share < warmup:
        return peak * max(share / warmup, 0.01)  # or the first update would do nothing
    return peak * 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - warmup) / (1 - warmup)))


def make_optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside blocks; AdamW for embeddings, head, bias tables and norms [ours]."""
    muon, adamw, vectors = [], [], []
    with_muon = settings.optimizer != "adamw"
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            vectors.append(parameter)
        elif with_muon and name.split(".")[0] in ("encoder", "decoder"):
            muon.append(parameter)
        else:
            adamw.append(parameter)

    # Muon leaves AdamW mostly embeddings, which tolerate a higher rate.
    rate = settings.learning_rate or (0.03 if with_muon else 3e-3)
    decay = settings.weight_decay
    group = {"params": muon, "peak": settings.muon_learning_rate}
    groups = [
        {"params": adamw, "weight_decay": decay, "peak": rate},
        {"params": vectors, "weight_decay": 0.0, "peak": rate},
    ]
    of_muon = [Muon([group], momentum=settings.momentum, weight_decay=decay)] if muon else []
    return [*of_muon, torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Roughly U Vᵀ of each matrix U S Vᵀ, (n, rows, columns): singular values from 0.7 to 1.2.

    Newton–Schulz iteration: an odd matrix polynomial acts on the singular values only.
    """
    # Five times a·x + b·x³ + c·x⁵ brings singular values from 0.01 to 1 close to 1 (Jordan).
    a, b, c = 3.4445, -4.7750, 2.0315
    bfloat16 = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = matrices.bfloat16() if bfloat16 else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Subtracts lr · √max(1, rows / columns) times an orthogonal matrix from each matrix, with
    Nesterov momentum; weight decay first scales the matrix by 1 − lr · weight_decay."""

    def __init__(self, params: Iterable[Any], lr=0.02, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.dim() != 2:
                raise ValueError(f"Muon: a parameter has shape {tuple(p.shape)}; expected a matrix")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # no closure
        for group in self.param_groups:
            alike = defaultdict(list)  # sorted shape → parameters
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(sorted(p.shape))].append(p)
            for params in alike.values():
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict) -> None:
        lr, momentum = group["lr"], group["momentum"]
        grads = [p.grad for p in params]
        means = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, means, momentum)
        # Transpose tall matrices: all are wide.
        wide = [x if x.shape[0] <= x.shape[1] else x.T for x in ahead]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for p, update in zip(params, orthogonalise(torch.stack(wide))):
            rows, columns = p.shape
            update = update if rows <= columns else update.T
            p.add_(update, alpha=-lr * math.sqrt(max(1, rows / columns)))
