"""Deferred signals, folder locks, several processes."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

from ases.data import InputError


class Interrupted(KeyboardInterrupt):
    """A signal ended the command; its arguments are a message and the signal's number."""


class Signals:
    """SIGINT and SIGTERM raise ``Interrupted``; while ``held``, the first waits for ``release``."""

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

    def release(self) -> None:
        """Hold no longer; a signal that waited raises now."""
        self.held = False
        if self.pending is not None:
            raise Interrupted("stopped", self.pending)


class Lock:
    """Locks a folder while this object lives (not on Windows). Raises InputError: it is locked."""

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
def is_distributed() -> bool:
    """Whether torchrun started more than one."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def check_alone() -> None:
    """Raises InputError: torchrun started several processes."""
    if is_distributed():
        raise InputError("this command runs in one process; start it without torchrun")


@contextmanager
def distributed_session() -> Iterator[None]:
    """Join torchrun's processes, if any, and leave them at the end.

    Rank 0 acts as a single process would; the others see the same files, but print and write
    nothing and ignore signals. If one dies, all end.
    """
    if not is_distributed():
        yield
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    rank = distributed.get_rank()
    try:
        if rank > 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(os.devnull, "w") as nowhere:
            out, errors = (nowhere, nowhere) if rank > 0 else (sys.stdout, sys.stderr)
            with redirect_stdout(out), redirect_stderr(errors):
                yield
    except InputError:
        if os.environ["LOCAL_RANK"] == "0":  # one line per machine
            raise
        sys.exit(2)
    except RuntimeError as error:
        # gloo and NCCL word such errors in many ways.
        words = ("gloo", "NCCL", "Connection", "peer")
        if not isinstance(error, distributed.DistError) and not any(w in str(error) for w in words):
            raise
        if rank == 0:
            print("error: another process has ended; continue with --resume", file=sys.stderr)
        sys.exit(1)
    finally:
        distributed.destroy_process_group()
