"""Speed of training on a CPU: `python tests/bench_train.py` (`--data chains.jsonl`, `--task pet`).

Three jobs, each against ``transformers`` with the same weights, AdamW and clipping on both sides:

- dense: updates on rows without padding;
- ragged: USM on real chains, ours as it trains by default, with one encoding of a chain and batches
  of like length, and with an encoding for each pair; theirs the pairs in random batches of 64. The
  unit is a target token;
- epoch: an epoch of USM and of direct, ours, from ``--updates`` updates each; nothing is validated.

`--against COMMIT` does another job: the default run's updates and chains, here and in that commit.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import torch
from bench import Report, alternate, arguments, in_transformers

from ases import training
from ases.model import EncoderDecoder
from ases.pairs import Pair, collate, make_batches, rows_by_model, source_length, target_length
from ases.recipe import segment, training_texts
from ases.run.folder import load_splits
from ases.settings import SIZES, ModelConfig, Settings
from ases.tokenizer import Tokenizer

VOCABULARY = 700  # of the dense job: about that of the generated problems


def new_model(size: str, vocab_size: int) -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(ModelConfig(vocab_size=vocab_size, **SIZES[size]))


def their_update(model: EncoderDecoder):
    """A program that makes an update of ``transformers`` from a batch and its source lengths."""
    model = in_transformers(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def update(batch, lengths):
        places = torch.arange(batch.source.shape[1])
        mask = (places < torch.tensor(lengths)[:, None]).long()
        model(input_ids=batch.source, attention_mask=mask, labels=batch.target).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def our_update(model, **changes):
    """A program that makes an update from a batch; it needs no lengths."""
    queue = []

    def stream(rows, trained):
        while True:
            yield queue.pop()

    settings = Settings(max_steps=10**9, validations=1, log_every=10**9, **changes)
    own = training.fit(training.Training("", model, settings), [[]], [[]])

    def update(batch, _):
        queue.append(batch)
        training._stream = stream
        next(own)

    return update


def dense(report: Report, size: str, rounds: int, n_updates: int = 10) -> None:
    B, S, T = 16, 64, 64
    model = new_model(size, VOCABULARY)
    theirs, ours = their_update(model), our_update(model, optimizer="adamw", learning_rate=1e-4)
    generator = random.Random(0)
    ids = lambda n: [generator.randint(3, VOCABULARY - 1) for _ in range(n)]
    batch = collate([[Pair("", [ids(S)], ids(T))] for _ in range(B)], pad_id=0)

    def repeated(update):
        def program():
            for _ in range(n_updates):
                update(batch, [S] * B)
            return n_updates

        return program

    programs = {"ours": repeated(ours), "transformers": repeated(theirs)}
    report.add(f"dense, {size}", alternate(programs, rounds), "update")


def updates_on(rows, batches, n_updates, update):
    """A program that makes the next updates, and says how many target tokens they saw."""
    stream = cycle(batches)

    def program():
        tokens = 0
        for _ in range(n_updates):
            chosen = [rows[i] for i in next(stream)]
            batch = collate(chosen, 0)
            update(batch, list(map(source_length, chosen)))
            tokens += batch.target_tokens
        return tokens

    return program


def ragged(report: Report, splits, tokenizer, size: str, rounds: int, n_updates: int) -> None:
    chains, programs = segment(splits["train"], Settings()), {}
    model = lambda: new_model(size, tokenizer.vocab_size)
    for name, encoder in (("ours", "block-causal"), ("ours, re-encoding", "bidirectional")):
        rows = rows_by_model("usm", chains, tokenizer, encoder)["usm"]
        ours = our_update(model(), optimizer="adamw")
        programs[name] = updates_on(rows, make_batches(rows, 2048, 0, 0), n_updates, ours)
    order = random.Random(0).sample(range(len(rows)), len(rows))  # rows: a pair each
    batches, few = [order[i : i + 64] for i in range(0, len(order), 64)], max(1, n_updates // 3)
    programs["transformers"] = updates_on(rows, batches, few, their_update(model()))
    report.add(f"ragged, {size}", alternate(programs, rounds), "target token")


def epochs(report: Report, splits, tokenizer, size: str, rounds: int, n_updates: int) -> None:
    """Seconds of an epoch: those of a target token times their number."""
    chains, programs = segment(splits["train"], Settings()), {}
    jobs = [("ours", "direct", "block-causal"), ("usm, encoded once", "usm", "block-causal")]
    for name, mode, encoder in [*jobs, ("usm, re-encoding", "usm", "bidirectional")]:
        rows = rows_by_model(mode, chains, tokenizer, encoder)[mode]
        ours = our_update(new_model(size, tokenizer.vocab_size))
        program = updates_on(rows, make_batches(rows, 2048, 0, 0), n_updates, ours)
        tokens = sum(map(target_length, rows))
        programs[name] = lambda program=program, tokens=tokens: program() / tokens
    report.add(f"epoch, {size} (ours: direct)", alternate(programs, rounds), "epoch")


def default_run(tree: Path, n_updates: int, threads: int) -> dict[str, float]:
    """Seconds of ``tree``'s train.py for a token, without validation, and for a test chain."""
    with tempfile.TemporaryDirectory() as folder:
        line = f"train.py --test-problems 2000 --max-steps {n_updates} --out-dir {folder}/run"
        own = dict(cwd=tree, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        subprocess.run([sys.executable, *line.split()], **own, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        results = json.loads((Path(folder) / "run" / "results.json").read_text())
    speeds = [row["tokens_per_second"] for row in map(json.loads, lines) if "loss" in row]
    seconds = {"token": 1 / statistics.median(speeds)}
    return seconds | {"chain": results["decode_seconds"] / results["n"]}


def against(report: Report, commit: str, rounds: int, n_updates: int) -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        trees = {"ours": root, commit: Path(folder) / "tree"}
        subprocess.run(["git", "clone", "-q", root, trees[commit]], check=True)
        subprocess.run(["git", "-C", trees[commit], "checkout", "-q", commit], check=True)
        measure = lambda tree: default_run(tree, n_updates, report.options.threads)
        rows = [{name: measure(tree) for name, tree in trees.items()} for _ in range(rounds)]
    for unit in ("token", "chain"):
        figures = {name: [row[name][unit] for row in rows] for name in trees}
        report.add("default run", figures, unit)


def main() -> None:
    own = dict(size="tiny", problems=2000, updates=20, jobs="dense,ragged,epoch", against="")
    options = arguments(__doc__, data="", task="mwp", **own)
    report = Report(options)
    size, rounds, updates = options.size, options.rounds, options.updates
    if options.against:
        against(report, options.against, rounds, 15 * updates)
        return report.write()
    if "dense" in options.jobs:
        dense(report, size, rounds)
    given = dict(data=options.data) if options.data else dict(train_problems=options.problems)
    splits, _ = load_splits(Settings(task=options.task, **given))
    splits["train"] = splits["train"][: options.problems]
    tokenizer = Tokenizer.train(training_texts(splits), 4096)
    for name, job in (("ragged", ragged), ("epoch", epochs)):
        if name in options.jobs:
            job(report, splits, tokenizer, size, rounds, updates)
    report.write()


if __name__ == "__main__":
    main()
