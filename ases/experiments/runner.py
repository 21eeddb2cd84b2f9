"""Trains what is missing: several trials at once, each on one core; what is finished stays."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from ases.data import InputError
from ases.experiments.one_trial import run_trial
from ases.experiments.trials import Trial
from ases.run.files import write_text

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"


def read_results() -> dict[str, dict]:
    """What was found so far, by the trials' keys."""
    path, results = RESULTS / "trials.jsonl", {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            results[row["key"]] = row
        except (ValueError, KeyError, TypeError):
            told = f"{path}:{number}: not what a trial found; expected its JSON"
            raise InputError(told) from None
    return results


def run_missing(trials: Sequence[Trial], folder: str, processes: int) -> dict[str, dict]:
    """Run the trials that have no result yet, and add theirs to the file, one as each ends.
    ``folder``: where the real data lies; trials whose file is not there are left out, and told."""
    results = read_results()
    missing = {t.key: t for t in trials if t.key not in results}
    for key, trial in list(missing.items()):
        if trial.data and not (Path(folder) / trial.data).exists():
            tqdm.write(f"left out: {trial.row} ({trial.data} is not in --data-folder)")
            del missing[key]
    if not missing:
        return results
    started = time.monotonic()
    # Another process for each: their threads would be in each other's way.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _prepare) as pool:
        futures = [pool.submit(run_trial, trial, folder) for trial in missing.values()]
        for done in tqdm(as_completed(futures), total=len(futures), unit="trial", disable=None):
            result = done.result()
            results = read_results() | {result["key"]: result}
            _write(results)
            minutes = (time.monotonic() - started) / 60
            accuracy = result["tests"]["test"].get("accuracy")
            tqdm.write(f"{minutes:5.1f} min  {result['row']}, seed {result['seed']}: {accuracy}")
    return read_results()


def _write(results: dict[str, dict]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in results.values()]
    write_text(RESULTS / "trials.jsonl", "".join(lines))


def _prepare() -> None:
    """One thread for each process; and a process ends when the one that started it is killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
