"""What the benchmarks share: two programs on the same work, in turns; medians of ratios."""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ases.extra.t5 import save_t5
from ases.model import EncoderDecoder


def arguments(description: str, **defaults: object) -> argparse.Namespace:
    """Flags ``--name`` of the given defaults, and ``--threads``, ``--rounds`` and ``--out``."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    defaults = {"threads": torch.get_num_threads(), "rounds": 7, "out": ""} | defaults
    for name, default in defaults.items():
        several = {"nargs": "+", "type": int} if isinstance(default, list) else {}
        parser.add_argument(f"--{name}", default=default, **({"type": type(default)} | several))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def alternate(programs: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds for each unit of work of each program, a figure a round; they take turns.

    Each program does its work and returns how many units that was.
    """
    figures: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, program in programs.items():
            started = time.perf_counter()
            units = program()
            if round_:
                figures[name].append((time.perf_counter() - started) / units)
    return figures


class Report:
    """Lines of a table, printed as they come and written as JSON at the end."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.rows = options, []
        self.machine = {"processor": platform.processor() or platform.machine()}
        self.machine |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        if torch.cuda.is_available():
            self.machine["device"] = torch.cuda.get_device_name()
        print(*(f"{k} {v}" for k, v in self.machine.items()), sep=", ", flush=True)

    def add(self, job: str, figures: dict[str, list[float]], unit: str, **facts: object) -> None:
        """A job's seconds for each unit, program by program; of each other program to ours, the
        median of the rounds' ratios, and their range."""
        medians = {name: statistics.median(seconds) for name, seconds in figures.items()}
        row = {"job": job, "unit": unit, "seconds": medians, "ratios": {}} | facts
        self.rows.append(row)
        for name, seconds in medians.items():
            each = [theirs / mine for theirs, mine in zip(figures[name], figures["ours"])]
            middle, low, high = statistics.median(each), min(each), max(each)
            row["ratios"][name] = {"ratio": middle, "lowest": low, "highest": high}
            ratio = f"{middle:6.2f} x ours ({low:.2f} to {high:.2f})"
            print(f"{job:<28} {name:<24} {1e3 * seconds:10.3f} ms/{unit}  {ratio}", flush=True)
        for name, value in facts.items():
            print(f"{'':<28} {name}: {value}", flush=True)

    def write(self) -> None:
        if self.options.out:
            content = {"machine": self.machine, "rows": self.rows}
            Path(self.options.out).write_text(json.dumps(content, indent=2) + "\n")


def in_transformers(model: EncoderDecoder):
    """The same weights as a model of transformers, whose decoder starts from its token alone."""
    from transformers import T5ForConditionalGeneration
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        plain = EncoderDecoder(replace(model.config, start_from_state=False))
        plain.load_state_dict(model.state_dict())
        save_t5(plain, Path(folder) / "model")
        return T5ForConditionalGeneration.from_pretrained(Path(folder) / "model")
