"""Ctrl-C and SIGTERM, which let what is at work come to a good end, and the lock of a run's
folder."""

import os
import signal
from pathlib import Path
from types import FrameType

from ases.data import InputError


class Interrupted(KeyboardInterrupt):
    """A signal has ended the command; ``number`` is the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Signals:
    """SIGINT and SIGTERM raise ``Interrupted``; while ``held`` they wait for ``check``, the first
    time."""

    def __init__(self):
        self.held = False
        self.pending: int | None = None

    def install(self) -> None:
        """From now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.held or self.pending is not None:
            raise Interrupted("stopped", number)
        self.pending = number

    def check(self) -> None:
        """Raise now what has come meanwhile."""
        if self.pending is not None:
            raise Interrupted("stopped", self.pending)


class Lock:
    """Keeps other commands out of a run's folder as long as it lives, or the process, however that
    ends. (Windows has no such locks; there it keeps nobody out.)"""

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
            told = f"{folder}: another command is at work there; expected to be alone"
            raise InputError(told) from None

    def __del__(self):
        if self.opened is not None:
            os.close(self.opened)
