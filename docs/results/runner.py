"""Run missing trials in parallel, each on one core, and keep what is finished."""

import json
import multiprocessing
import os
import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, fields
from pathlib import Path

import torch
from one_trial import run_trial
from tqdm import tqdm
from trials import GENERATED, VERSION, Trial

from ases.data import InputError
from ases.run.write import json_lines, write_text

RESULTS = Path(__file__).parent
FIELDS = [field.name for field in fields(Trial)]
#: Identifies this call: seconds compare only within one.
SESSION = uuid.uuid4().hex[:6]


def read_results() -> dict[Trial, dict]:
    """Read ``trials.jsonl``: each row has a trial's fields, then its results.

    Raises InputError: a line is not a trial of this version.
    """
    path, results = RESULTS / "trials.jsonl", {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            row = json.loads(line)
            trial = Trial(**{name: row[name] for name in FIELDS})
            if row["format"] != VERSION:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            message = f"not a trial of version {VERSION}; move the file away to train again"
            raise InputError(f"{path}:{number}: {message}") from None
        results[trial] = row
    return results


def run_missing(trials: Sequence[Trial], folder: str, processes: int) -> None:
    """Run the trials without a result; save each result when it arrives. ``folder`` holds the real
    data; trials whose file is missing are left out."""
    results = read_results()
    missing = [trial for trial in trials if trial not in results]
    for data in sorted({t.data for t in missing} - {GENERATED}):
        if not (Path(folder) / data).exists():
            tqdm.write(f"skipping trials on {data}: not in --data-folder")
            missing = [trial for trial in missing if trial.data != data]
    if not missing:
        return
    # Processes: threads would get in each other's way.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _prepare) as pool:
        futures = {pool.submit(run_trial, trial, folder): trial for trial in missing}
        for done in tqdm(as_completed(futures), total=len(futures), unit="trial", disable=None):
            trial = futures[done]
            row = asdict(trial) | {"format": VERSION, "session": SESSION} | done.result()
            results = read_results() | {trial: row}
            write_text(RESULTS / "trials.jsonl", json_lines(results.values()))


def _prepare() -> None:
    """Use one thread, and exit when the parent is killed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
