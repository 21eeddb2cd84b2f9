"""The two optimizers and the learning-rate schedule.

Muon orthogonalises the updates of matrices, so all directions move equally (Jordan et al.
2024). AdamW updates the rest. PyTorch's own import its compiler, which takes seconds, and its Muon
handles one matrix at a time, always in bfloat16, which few CPUs multiply fast. This Muon batches
matrices of one shape, in bfloat16 only on GPUs that support it. The tests compare both.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ases.settings import Settings


def learning_rate_at(share: float, peak: float, warmup: float) -> float:
    """Linear warm-up to ``peak``, then cosine decay to zero; ``share`` of the budget: 0 to 1."""
    if share < warmup:
        return peak * max(share / warmup, 0.01)  # or the first update would do nothing
    return peak * 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - warmup) / (1 - warmup)))


def make_optimizers(model: nn.Module, settings: Settings) -> "list[Muon | AdamW]":
    """Muon for matrices inside blocks; AdamW for embeddings, head, bias tables and norms. Not in
    the paper."""
    muon: list[Tensor] = []
    adamw: list[Tensor] = []
    vectors: list[Tensor] = []
    with_muon = settings.optimizer != "adamw"
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            vectors.append(parameter)
        elif with_muon and name.split(".")[0] in ("encoder", "decoder"):
            muon.append(parameter)
        else:
            adamw.append(parameter)

    # AdamW alone needs a lower rate; embeddings tolerate a higher one than the blocks.
    rate = settings.learning_rate or (0.01 if with_muon else 0.003)
    embedding_rate = (settings.embedding_learning_rate or 0.03) if with_muon else rate
    decay = settings.weight_decay
    others = AdamW([Group(adamw, embedding_rate, decay), Group(vectors, embedding_rate, 0.0)])
    if not with_muon:
        return [others]
    return [Muon([Group(muon, rate, decay)], settings.momentum), others]


@dataclass
class Group:
    """Parameters that share a learning rate and a weight decay."""

    params: list[Tensor]
    peak: float  # learning rate after the warm-up
    weight_decay: float
    lr: float = 0.0  # now


class Optimizer:
    """What Muon and AdamW share: groups, and a state of tensors per parameter."""

    def __init__(self, groups: list[Group]):
        self.groups = groups
        self.params = [p for group in groups for p in group.params]
        self.state: dict[Tensor, dict] = {p: {} for p in self.params}

    def set_rates(self, share: float, warmup: float) -> None:
        """Move along the schedule; ``share`` of the budget."""
        for group in self.groups:
            group.lr = learning_rate_at(share, group.peak, warmup)

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict:
        """Tensors and steps by the parameter's number, laid out as in PyTorch's optimizers."""
        return {"state": {i: self.state[p] for i, p in enumerate(self.params)}}

    def load_state_dict(self, saved: dict) -> None:
        """Raises KeyError, ValueError or OverflowError: a state of other parameters, or damaged."""
        for i, p in enumerate(self.params):
            for name, value in saved["state"][i].items():
                if name == "step":
                    self.state[p][name] = int(value)
                elif value.shape != p.shape:
                    raise ValueError(f"{name} of parameter {i} is {tuple(value.shape)}")
                else:
                    self.state[p][name] = value.to(p.device)


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    BETAS, EPSILON = (0.9, 0.98), 1e-8

    @torch.no_grad()
    def step(self) -> None:
        b1, b2 = self.BETAS
        for group in self.groups:
            for p in group.params:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = 0
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                n, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(p.grad, 1 - b1)
                square.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                # Both means start at zero: divide by the weight they have gathered so far.
                spread = (square / (1 - b2**n)).sqrt_().add_(self.EPSILON)
                p.mul_(1 - group.lr * group.weight_decay)
                p.addcdiv_(mean, spread, value=-group.lr / (1 - b1**n))


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


class Muon(Optimizer):
    """Subtracts lr · √max(1, rows / columns) times an orthogonal matrix from each matrix, with
    Nesterov momentum; weight decay first scales the matrix by 1 − lr · weight_decay."""

    def __init__(self, groups: list[Group], momentum: float = 0.95):
        super().__init__(groups)
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            by_shape = defaultdict(list)  # sorted shape → parameters
            for p in group.params:
                if p.grad is not None:
                    by_shape[tuple(sorted(p.shape))].append(p)
            for params in by_shape.values():
                self._step(params, group.lr, group.weight_decay)

    def _step(self, params: list[Tensor], lr: float, weight_decay: float) -> None:
        grads = [p.grad for p in params]
        means = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in params]
        torch._foreach_lerp_(means, grads, 1 - self.momentum)
        nesterov = torch._foreach_lerp(grads, means, self.momentum)
        # Transpose tall matrices: all are wide.
        wide = [x if x.shape[0] <= x.shape[1] else x.T for x in nesterov]
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        for p, update in zip(params, orthogonalise(torch.stack(wide))):
            rows, columns = p.shape
            update = update if rows <= columns else update.T
            p.add_(update, alpha=-lr * math.sqrt(max(1, rows / columns)))
