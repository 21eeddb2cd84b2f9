"""Several processes that ``torchrun`` has started: how they meet, and who speaks and writes.

The first does all that one process would. The others see the same files, say nothing and write
nothing.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from ases.data import InputError


def several_processes() -> bool:
    """Whether torchrun has started more than one."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def meeting() -> Iterator[None]:
    """Meet the other processes, if there are any, and part from them at the end.

    It ends the command where one of them is lost. All wait for the first, which signals stop: it
    finishes its update, and saves.
    """
    if not several_processes():
        yield
        return
    import torch
    from torch import distributed

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    rank = distributed.get_rank()
    try:
        if rank == 0:
            yield
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            with open(os.devnull, "w") as nowhere:
                with redirect_stdout(nowhere), redirect_stderr(nowhere):
                    yield
    except InputError:
        if os.environ["LOCAL_RANK"] == "0":  # one line a machine
            raise
        sys.exit(2)
    except RuntimeError as error:
        if not _tells_of_a_loss(error):
            raise
        if rank == 0:
            told = "error: another process has ended; --resume goes on from the last checkpoint"
            print(told, file=sys.stderr)
        sys.exit(1)
    finally:
        distributed.destroy_process_group()


def _tells_of_a_loss(error: RuntimeError) -> bool:
    """gloo and NCCL have errors of many words."""
    from torch import distributed

    words = ("gloo", "NCCL", "Connection", "peer")
    return isinstance(error, distributed.DistError) or any(word in str(error) for word in words)
