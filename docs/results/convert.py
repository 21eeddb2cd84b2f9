"""Turn the logs of zero-shot chains of thought (github.com/kojima-takeshi188/zero_shot_cot) into
JSON Lines: `python docs/results/convert.py LOG … --out llm_cot.jsonl`."""

import re
from pathlib import Path

from ases.data import refuse_if
from ases.run.cli import Parser, run_command
from ases.run.read import read_bytes
from ases.run.write import json_lines, write_text

ENTRY = re.compile(
    r"^(?P<n>\d+)st data\n.*?^Q: (?P<question>.*?)\nA: Let's think step by step\.(?P<chain>.*?)"
    r"Therefore, the answer \(arabic numerals\) is(?P<answer>.*?)\npred_before.*?"
    r"^pred_mode : (?P<predicted>.*?)\nGT : (?P<gold>.*?)$",
    re.MULTILINE | re.DOTALL,
)


def rows_of(log: Path) -> list[dict]:
    """The chains whose number was right."""
    rows, name = [], log.name.split("_")[0]
    for entry in ENTRY.finditer(read_bytes(log, "a log").decode("utf-8", "replace")):
        if entry["predicted"] == entry["gold"]:
            chain = f"{entry['chain'].lstrip()}The answer is {entry['answer'].strip()}"
            row = {"id": f"{name}-{int(entry['n']) - 1}", "question": entry["question"].strip()}
            rows.append(row | {"answer": chain, "gold": entry["gold"]})
    return rows


def main() -> None:
    parser = Parser(prog="python docs/results/convert.py", description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="log/*_zero_shot_cot.log")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [row for log in options.logs for row in rows_of(log)]
    refuse_if(not rows, options.logs[0], "no right chain; expected logs of zero_shot_cot")
    write_text(options.out, json_lines(rows))


if __name__ == "__main__":
    run_command(main)
