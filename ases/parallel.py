"""Training in several processes, each with a part of every batch: PyTorch's DDP and little more.

``torchrun --nproc-per-node N train.py …`` starts the processes. Each works on the same batches in
the same order and takes every Nth row. Gradients are those of the whole batch, so losses are those
of one process but for the order of sums. In one process all functions return what they get.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
Number = TypeVar("Number", int, float, Tensor)


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def count() -> int:
    return distributed.get_world_size() if several() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if several() else 0


def own_part(items: Sequence[T]) -> Sequence[T]:
    """The items of this process; there may be none."""
    return items[rank() :: count()]


def total(value: Number) -> Number:
    """The sum over all processes."""
    if not several():
        return value
    if isinstance(value, Tensor):
        tensor = value.clone()
        distributed.all_reduce(tensor)
        return tensor
    return type(value)(total(torch.tensor(value, dtype=torch.float64)))


def first(value: float) -> float:
    """The first process's value: clocks do not agree."""
    return total(value if rank() == 0 else 0.0)


def gather(items: Sequence[T], n: int) -> list[T]:
    """All ``n`` items, of which each process has its ``own_part``."""
    if not several():
        return list(items)
    parts: list[Sequence[T]] = [()] * count()
    distributed.all_gather_object(parts, items)
    return [parts[i % count()][i // count()] for i in range(n)]


def check_alike(name: str, data: object) -> None:
    """Raise if processes have different data, as from different files."""
    if not several():
        return
    digests = gather([hashlib.sha256(repr(data).encode()).hexdigest()], count())
    for other, found in enumerate(digests):
        if found != digests[0]:
            raise ValueError(f"{name}: processes {other} and 0 have different data")


class _Loss(nn.Module):
    """DDP calls ``forward`` of a module."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Any:
        return self.model.loss_sum(batch)


def loss_function(model: Any) -> Callable:
    """``model.loss_sum``, whose backward leaves the mean of all processes' gradients in each.

    All processes then start from the first one's weights.
    """
    if not several():
        return model.loss_sum
    return nn.parallel.DistributedDataParallel(_Loss(model))
