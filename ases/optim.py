"""The two optimizers, and the learning rate over time.

Muon moves matrices by orthogonal updates, so that all directions of a map change alike (Jordan et
al. 2024). AdamW moves the rest. PyTorch has Muon too, for one matrix at a time and always in
bfloat16. Small models have many small matrices, and few processors multiply bfloat16 fast: here
matrices of one shape are a batch. The tests compare the two.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ases.settings import Settings


def learning_rate_at(share: float, peak: float, warmup: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to zero; ``share`` of the budget runs from 0
    to 1."""
    if share < warmup:
        return peak * max(share / warmup, 0.01)  # so that the first update counts
    return peak * 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - warmup) / (1 - warmup)))


def make_optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks; AdamW for embeddings, head, bias tables and norms, which
    are no maps between states [ours]."""
    muon, adamw, vectors = [], [], []
    with_muon = settings.optimizer != "adamw"
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            vectors.append(parameter)
        elif with_muon and name.split(".")[0] in ("encoder", "decoder"):
            muon.append(parameter)
        else:
            adamw.append(parameter)

    # What muon leaves is mostly embeddings: they bear a higher rate.
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
    """U Vᵀ of each matrix U S Vᵀ, (n, rows, columns), roughly: singular values from 0.7 to 1.2.

    Newton and Schulz's iteration: an odd polynomial of a matrix works on its singular values.
    """
    # a·x + b·x³ + c·x⁵, five times, takes singular values from 0.01 to 1 near 1 (Jordan).
    a, b, c = 3.4445, -4.7750, 2.0315
    bfloat16 = matrices.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    x = matrices.bfloat16() if bfloat16 else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Moves each matrix by lr · √max(1, rows / columns) times an orthogonal one, and shrinks it by
    the factor 1 − lr · weight_decay. The mean of gradients looks one step ahead (Nesterov)."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.dim() != 2:
                raise ValueError(f"Muon: a parameter of shape {tuple(p.shape)}; expected a matrix")

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # there is no closure
        for group in self.param_groups:
            alike = defaultdict(list)  # (rows, columns), the smaller first → parameters
            for p in group["params"]:
                if p.grad is not None:
                    alike[tuple(sorted(p.shape))].append(p)
            for params in alike.values():
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict) -> None:
        lr, momentum = group["lr"], group["momentum"]
        grads = [p.grad for p in params]
        for p in params:
            self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        means = [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, means, momentum)
        # Tall matrices lie on their side meanwhile.
        wide = [x if x.shape[0] <= x.shape[1] else x.T for x in ahead]
        torch._foreach_mul_(params, 1 - lr * group["weight_decay"])
        for p, update in zip(params, orthogonalise(torch.stack(wide))):
            rows, columns = p.shape
            update = update if rows <= columns else update.T
            p.add_(update, alpha=-lr * math.sqrt(max(1, rows / columns)))
