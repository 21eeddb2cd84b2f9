"""Training in several processes, each with a part of every batch: PyTorch's DDP and little more.

``torchrun --nproc-per-node N train.py …`` starts the processes, and ``ases.run.processes`` has them
meet. Each works on the same batches, in the same order, and takes every Nth row. The gradients are
those of the whole batch, so the losses are those of one process but for the order of sums. In one
process every function here gives back what it is given.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from ases.model import EncoderDecoder
from ases.pairs import Batch, Row

T = TypeVar("T")
Number = TypeVar("Number", int, float, Tensor)


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if several() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if several() else 0


def several() -> bool:
    """Whether there is more than this process."""
    return distributed.is_available() and distributed.is_initialized()


def own_part(items: Sequence[T]) -> Sequence[T]:
    """Those that this process works on; there may be none."""
    return items[rank() :: count()]


def total(value: Number) -> Number:
    """The sum of a whole number, a float or a tensor of any shape over all processes."""
    if not several():
        return value
    if isinstance(value, Tensor):
        tensor = value.clone()
        distributed.all_reduce(tensor)
        return tensor
    return type(value)(total(torch.tensor(value, dtype=torch.float64)))


def first(value: float) -> float:
    """The number that the first process has: clocks do not agree."""
    return total(value if rank() == 0 else 0.0)


def gather(items: Sequence[T], n: int) -> list[T]:
    """All ``n`` items, of which each process has those that ``own_part`` gave it."""
    if not several():
        return list(items)
    parts: list[Sequence[T]] = [()] * count()
    distributed.all_gather_object(parts, items)
    return [parts[i % count()][i // count()] for i in range(n)]


def check_alike(name: str, rows: Sequence[Row]) -> None:
    """
    Raises:
        ValueError: the processes have different rows, as from different files.
    """
    if not several():
        return
    digest = hashlib.sha256(repr(rows).encode()).hexdigest()
    digests = [""] * count()
    distributed.all_gather_object(digests, digest)
    for other, found in enumerate(digests):
        if found != digests[0]:
            told = f"{name}: process {other} has other rows than process 0; expected one data"
            raise ValueError(told)


class _Loss(nn.Module):
    """DDP calls ``forward``, and only of modules."""

    def __init__(self, model: EncoderDecoder):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss_sum(batch)


def loss_function(model: EncoderDecoder) -> Callable[[Batch], Tensor]:
    """Batch → Σ of its losses, a scalar, as ``model.loss_sum``; backward leaves in each process the
    mean of all their gradients.

    Every process then starts from the weights of the first.
    """
    if not several():
        return model.loss_sum
    return nn.parallel.DistributedDataParallel(_Loss(model))
