"""Data-parallel training with PyTorch's DDP.

``torchrun --nproc-per-node N train.py …`` starts the processes. All go through the same batches in
the same order, and each takes every Nth row. Gradients are those of the whole batch, so losses
match those of one process up to the order of sums. With one process, nothing is communicated.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from ases.data import InputError
from ases.model import EncoderDecoder, summed_loss
from ases.pairs import Batch

T = TypeVar("T")
Number = TypeVar("Number", int, float, Tensor)


def several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def world_size() -> int:
    return distributed.get_world_size() if several() else 1


def rank() -> int:
    return distributed.get_rank() if several() else 0


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's items, possibly none."""
    return items[rank() :: world_size()]


def all_sum(value: Number) -> Number:
    """Sum over all processes."""
    if not several():
        return value
    if isinstance(value, Tensor):
        tensor = value.clone()
        distributed.all_reduce(tensor)
        return tensor
    return type(value)(all_sum(torch.tensor(value, dtype=torch.float64)))


def value_of_rank_0(value: float) -> float:
    """The first process's value: clocks differ."""
    return all_sum(value if rank() == 0 else 0.0)


def gather(items: Sequence[T], n: int) -> list[T]:
    """All ``n`` items, from each process's ``shard``."""
    if not several():
        return list(items)
    parts: list[Sequence[T]] = [()] * world_size()
    distributed.all_gather_object(parts, items)
    return [parts[i % world_size()][i // world_size()] for i in range(n)]


def check_same_data(name: str, data: object) -> None:
    """Raises InputError: processes have different data."""
    if not several():
        return
    digests = gather([hashlib.sha256(repr(data).encode()).hexdigest()], world_size())
    for other, digest in enumerate(digests):
        if digest != digests[0]:
            raise InputError(f"{name}: processes {other} and 0 have different data")


def loss_function(model: EncoderDecoder) -> Callable[[Batch], Tensor]:
    """``model.loss_sum``; in several processes, its backward averages gradients over them, and all
    start from the first one's weights."""
    if not several():
        return model.loss_sum
    replica = nn.parallel.DistributedDataParallel(model)
    return lambda batch: summed_loss(replica(batch), batch.target)
