"""What long work shows: a bar on a terminal, elsewhere a plain line every half minute."""

import shutil
import sys
import time

from tqdm import tqdm

from ases.data import shown

INTERVAL = 30.0  # seconds between two plain lines


def say(line: str) -> None:
    """A line about the work that goes on, past any bar."""
    tqdm.write(line, file=sys.stderr)


def tell(line: object) -> None:
    """A line on standard output, which may quote data or names of files."""
    print(shown(line), flush=True)


class Meter:
    """Shows on standard error how much of something is done, and how long the rest will take."""

    def __init__(self, name: str, total: float, done: float = 0.0):
        self.name, self.total, self.done, self.first = name, total, done, done
        self.started = self.shown = time.monotonic()
        self.bar = tqdm(
            desc=name,
            total=total,
            initial=done,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}",
            ncols=shutil.get_terminal_size().columns,  # 80 for a terminal that says 0
            disable=None,  # where standard error is no terminal
        )

    def update(self, done: float, note: str = "") -> None:
        """``done`` of the total is done by now; ``note`` says what else there is to know."""
        self.done = done
        if not self.bar.disable:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
        elif time.monotonic() - self.shown >= INTERVAL:
            self.line(done, note)

    def line(self, done: float, note: str) -> None:
        """The same as a plain line, now; on a terminal the bar says it."""
        self.done = done
        if self.bar.disable:
            self.shown = time.monotonic()
            share = self.done / self.total
            say(f"{self.name} {share:4.0%}, {self._left()} left, {note}")

    def close(self) -> None:
        """Take the bar away."""
        self.bar.close()

    def _left(self) -> str:
        done = self.done - self.first
        if done <= 0:
            return "?"
        seconds = (time.monotonic() - self.started) / done * (self.total - self.done)
        return tqdm.format_interval(seconds)
