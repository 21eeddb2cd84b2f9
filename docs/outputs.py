"""Commands and what they print: `python docs/outputs.py` runs the commands of README and docs anew.

A block that begins with ```console holds commands, each after "$ ", and their output. The quick
ones are run here, and their output is written behind them; ``tests/test_docs.py`` does the same and
compares. A block with <!-- slow --> before it holds the output of a long run, without the progress
that standard error shows: `--slow` runs it too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- slow -->\n)?```console\n(.*?)```\n", re.DOTALL)


def run(command: str, errors: str = "&1") -> str:
    """What a command prints, both streams together; `| tail` and the like are the shell's."""
    shell = ["bash", "-c", f"{{ {command}; }} 2>{errors}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # its own Python first
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(shell, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    return done.stdout


def commands(block: str) -> list[str]:
    """The commands of a block's content."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


def refreshed(page: str, slow: bool = False) -> str:
    """The text of a page with all outputs made anew, of slow blocks only if asked."""

    def again(match: re.Match) -> str:
        marker, block = match.groups()
        if marker and not slow:
            return match.group()
        errors = "/dev/null" if marker else "&1"
        shown = "".join(f"$ {command}\n{run(command, errors)}" for command in commands(block))
        return f"{marker or ''}```console\n{shown}```\n"

    return BLOCK.sub(again, page)


def main() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        text = refreshed(text, slow="--slow" in sys.argv)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
