"""What the three commands share: flags, and how a user's mistake is told in one line.

All wrong values are reported together; a mistake ends the command with exit code 2 and no traceback.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ases.data import TASKS, InputError
from ases.scoring import CONTEXTS


@dataclass(frozen=True)
class _Bad:
    expected: str
    value: str


class Parser(argparse.ArgumentParser):
    """An argument parser that shows defaults in its help and reports every bad value at once, in one line."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)

    def error(self, message: str):
        raise InputError(f"{message}; see --help")

    def parse(self, arguments: list[str] | None = None, check: Callable[[argparse.Namespace], list[str]] | None = None) -> argparse.Namespace:
        """Parse; ``check`` may add complaints about flags that do not go together.

        Raises:
            InputError: naming every flag that is wrong, its value, and what was expected.
        """
        args = self.parse_args(arguments)
        bad = {name: value for name, value in vars(args).items() if isinstance(value, _Bad)}
        complaints = [f"--{name.replace('_', '-')} is {value.value!r}; expected {value.expected}" for name, value in bad.items()]
        if check:  # the other flags, as if the bad ones had not been given
            complaints += check(argparse.Namespace(**(vars(args) | {name: self.get_default(name) for name in bad})))
        if complaints:
            raise InputError(" | ".join(complaints))
        return args


def number(kind: type, low: float, high: float | None = None, above: bool = False) -> Callable:
    """A flag's type: an int or float from ``low`` (or, with ``above``, above it) to ``high``."""
    what = {int: "a whole number", float: "a number"}[kind]
    expected = f"{what} {'above' if above else 'of at least'} {low:g}" + ("" if high is None else f" and at most {high:g}")

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            return _Bad(expected, text)
        fits = (value > low if above else value >= low) and (high is None or value <= high) and value - value == 0
        return value if fits else _Bad(expected, text)

    return parse


def one_of(*choices: str) -> Callable:
    """A flag's type: one of a few words."""
    return lambda text: text if text in choices else _Bad(f"one of {', '.join(choices)}", text)


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--task", type=one_of(*TASKS), default="mwp", help="mwp: math word problems; pet: PET/CT reports")
    group.add_argument("--data", default=None, metavar="PATH", help="JSON Lines or CSV with question and answer; without it examples are generated")
    group.add_argument("--seed", type=number(int, 0, 2**63 - 1), default=0, help="of the data, the split, the weights and the order of training")
    group.add_argument("--train-problems", type=number(int, 1), default=None, metavar="N", help="training examples: a file's first N of its training split (None: all); generated, None means 4000")
    group.add_argument("--test-problems", type=number(int, 1), default=None, metavar="N", help="test examples, likewise; generated, None means 500")
    group.add_argument("--max-number", type=number(int, 10, 100_000), default=None, help="largest number in generated word problems; None means 20")


def add_segmentation_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("segmentation")
    group.add_argument("--segmentation", type=one_of("interleave", "entropy"), default="interleave", help="labels by position, or by the entropy under a direct model")
    group.add_argument("--scorer", default=None, metavar="RUN", help="run folder of a direct model that scores for --segmentation entropy")
    group.add_argument("--beta", type=number(float, 0), default=1.0, help="a piece is AS above beta times its answer's mean piece entropy")
    group.add_argument("--gamma", type=number(float, -10, 10), default=1.0, help="piece entropy is the sum of its tokens' entropies over (their number ** gamma): 0 sum, 1 mean; this reading of the paper's gamma is ours")
    group.add_argument("--entropy-context", type=one_of(*CONTEXTS), default="prefix", help="a piece is scored given the question and the chain before it, or the question alone")
    group.add_argument("--no-merge", action="store_true", help="keep every piece a segment of its own, as the released code does")


def check_data_flags(args: argparse.Namespace) -> list[str]:
    complaints = []
    if args.data is not None and args.max_number is not None:
        complaints.append(f"--max-number is {args.max_number} with --data; expected it only for generated problems")
    if args.task == "pet" and args.max_number is not None:
        complaints.append(f"--max-number is {args.max_number} with --task pet; expected it only for word problems")
    return complaints


def check_segmentation_flags(args: argparse.Namespace) -> list[str]:
    if args.segmentation == "entropy":
        return []
    defaults = {"scorer": None, "beta": 1.0, "gamma": 1.0, "entropy_context": "prefix"}
    given = {name: getattr(args, name) for name, value in defaults.items() if getattr(args, name) != value}
    return [f"--{name.replace('_', '-')} is {value!r} with --segmentation interleave; expected it only with entropy" for name, value in given.items()]


def check_device(device: str) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        return [f"--device is {device!r}; expected auto, cpu or cuda"]
    if device == "cuda" and not torch.cuda.is_available():
        return ["--device is 'cuda'; expected cpu, for PyTorch finds no CUDA here"]
    return []


def choose_device(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def make_parent(path: Path) -> None:
    """Make the folder that ``path`` goes into.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be made ({error.strerror}); expected a folder that can be written") from None


def run_command(main: Callable[[], None]) -> None:
    """Call ``main``; a mistake of the user's becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
