"""Progress: a bar on a terminal, elsewhere a line every half minute."""

import shutil
import sys
import time

from tqdm import tqdm

from ases.data import printable

INTERVAL = 30.0  # seconds between lines


def print_note(line: str) -> None:
    """Print a line to stderr, above any bar."""
    tqdm.write(printable(line), file=sys.stderr)


def print_line(line: object) -> None:
    """Print a line to stdout, with control characters escaped."""
    print(printable(line), flush=True)


class Meter:
    """Shows progress and the time left on stderr."""

    def __init__(self, name: str, total: float, done: float = 0):
        self.name, self.total, self.done, self.first = name, total, done, done
        self.started = self.shown = time.monotonic()
        self.bar = tqdm(
            desc=name,
            total=total,
            initial=done,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}",
            ncols=shutil.get_terminal_size().columns,  # 80 if the terminal reports 0
            disable=None,  # unless stderr is a terminal
        )

    def update(self, done: float, note: str, now: bool = False) -> None:
        """Set the progress to ``done``. ``now``: without a bar, print a line at once."""
        self.done = done
        if not self.bar.disable:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
        elif now or time.monotonic() - self.shown >= INTERVAL:
            self.shown = time.monotonic()
            rate = (done - self.first) / (self.shown - self.started + 1e-9)
            left = tqdm.format_interval((self.total - done) / rate) if rate > 0 else "?"
            print_note(f"{self.name} {done / self.total:4.0%}, {left} left, {note}")

    def add(self, n: int) -> None:
        self.update(self.done + n, f"{self.done + n} of {self.total}")

    def close(self) -> None:
        self.bar.close()
