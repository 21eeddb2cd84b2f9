"""What long work shows: a bar on a terminal, elsewhere a plain line every half minute."""

import shutil
import sys
import time

from tqdm import tqdm

from ases.data import shown

INTERVAL = 30.0  # seconds between two plain lines


def say(line: str) -> None:
    """A line about the work that goes on, past any bar."""
    tqdm.write(shown(line), file=sys.stderr)


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
            rate = (done - self.first) / (self.shown - self.started + 1e-9)
            left = tqdm.format_interval((self.total - done) / rate) if rate > 0 else "?"
            say(f"{self.name} {done / self.total:4.0%}, {left} left, {note}")

    def close(self) -> None:
        self.bar.close()
