"""Signals that let work come to a good end, the lock of a folder, and several processes."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

from ases.data import InputError


class Interrupted(KeyboardInterrupt):
    """A signal, ``number``, has ended the command."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Signals:
    """SIGINT and SIGTERM raise ``Interrupted``. While ``held``, the first one waits for
    ``check``."""

    def __init__(self):
        self.held = False
        self.pending: int | None = None

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.held or self.pending is not None:
            raise Interrupted("stopped", number)
        self.pending = number

    def check(self) -> None:
        if self.pending is not None:
            raise Interrupted("stopped", self.pending)


class Lock:
    """Keeps other commands out of a folder until it, or the process, ends. (Windows has no such
    locks; there it keeps nobody out.)"""

    def __init__(self, folder: Path):
        self.opened: int | None = None
        try:
            import fcntl
        except ImportError:
            return
        self.opened = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another command is using this folder") from None

    def __del__(self):
        if self.opened is not None:
            os.close(self.opened)


# --- several processes ---------------------------------------------------------------------------
def several_processes() -> bool:
    """Has torchrun started more than one?"""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


@contextmanager
def meeting() -> Iterator[None]:
    """Meet the processes that torchrun has started, if it has, and part from them at the end.

    The first one does all that a single process would; the others see the same files, say nothing
    and write nothing. If one is lost, all end. Signals stop the first one, which saves.
    """
    if not several_processes():
        yield
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank = distributed.get_rank()
    try:
        if rank == 0:
            yield
        else:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            nowhere = open(os.devnull, "w")
            with nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                yield
    except InputError:
        if os.environ["LOCAL_RANK"] == "0":  # one line a machine
            raise
        sys.exit(2)
    except RuntimeError as error:
        # gloo and NCCL have errors of many words.
        words = ("gloo", "NCCL", "Connection", "peer")
        lost = isinstance(error, distributed.DistError) or any(w in str(error) for w in words)
        if not lost:
            raise
        if rank == 0:
            told = "error: another process has ended; --resume continues from the last checkpoint"
            print(told, file=sys.stderr)
        sys.exit(1)
    finally:
        distributed.destroy_process_group()
