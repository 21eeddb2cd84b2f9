"""Speed of training on a CPU: `python tests/bench_train.py` (`--data chains.jsonl`, `--task pet`).

Three jobs, each against ``transformers`` with the same weights, AdamW and clipping on both sides:

- dense: updates on rows without padding, and our share of a plain matrix product's FLOP/s;
- ragged: USM on real chains, ours as it trains by default, with one encoding of a chain and batches
  of like length, and with an encoding for each pair; theirs the pairs in random batches of 64. The
  unit is a target token;
- epoch: an epoch of USM and of direct, ours, from ``--updates`` updates each; nothing is validated.

`--against COMMIT` does another job: the default run's updates, here and in that commit's tree.
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
from bench import Report, alternate, arguments, examples, in_transformers, matrix_product_flops

from ases import training
from ases.model import EncoderDecoder
from ases.pairs import (
    Pair,
    collate,
    make_batches,
    make_rows,
    rows_by_model,
    source_length,
    target_length,
)
from ases.recipe import segment
from ases.settings import SIZES, ModelConfig, Settings
from ases.tokenizer import Tokenizer

VOCABULARY = 700  # of the dense job: about that of the generated problems


def their_update(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def update(batch, lengths):
        places = torch.arange(batch.source.shape[1])
        mask = (places < lengths[:, None]).long()
        model(input_ids=batch.source, attention_mask=mask, labels=batch.target).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return update


def new_model(size: str, vocab_size: int) -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(ModelConfig(vocab_size=vocab_size, **SIZES[size]))


def our_update(model, **changes):
    """A program that makes an update from a batch."""
    queue = []

    def stream(rows, trained):
        while True:
            yield queue.pop()

    settings = Settings(max_steps=10**9, validations=1, log_every=10**9, **changes)
    own = training.fit(training.Training("", model, settings), [[]], [[]])

    def update(batch):
        queue.append(batch)
        training._stream = stream
        next(own)

    return update


def flops(model: EncoderDecoder, B: int, S: int, T: int) -> float:
    """Of an update: 2 for each weight and token, and of attention; three times that with backward."""
    c = model.config
    inner = c.num_heads * c.d_kv
    encoder = sum(p.numel() for p in model.encoder.parameters())
    decoder = sum(p.numel() for p in model.decoder.parameters())
    cross = c.num_decoder_layers * 2 * c.d_model * inner  # keys and values of source tokens
    head = c.vocab_size * c.d_model
    weights = S * (encoder + cross) + T * (decoder - cross + head)
    scores = inner * (c.num_layers * S * S + c.num_decoder_layers * (T * T + T * S))
    return 3 * B * (2 * weights + 4 * scores)


def dense(report: Report, size: str, rounds: int, n_updates: int = 10) -> None:
    B, S, T = 16, 64, 64
    model = new_model(size, VOCABULARY)
    theirs = their_update(in_transformers(model))
    generator = random.Random(0)

    def ids(n):
        return [generator.randint(3, VOCABULARY - 1) for _ in range(n)]

    pairs = [Pair("", [ids(S)], ids(T)) for _ in range(B)]
    batch = collate([row for p in pairs for row in make_rows([p], "bidirectional")], pad_id=0)
    lengths = torch.full((B,), S)
    update = our_update(model, optimizer="adamw", learning_rate=1e-4)

    def ours():
        for _ in range(n_updates):
            update(batch)
        return n_updates

    def transformers():
        for _ in range(n_updates):
            theirs(batch, lengths)
        return n_updates

    figures = alternate({"ours": ours, "transformers": transformers}, rounds)
    best = matrix_product_flops()
    share = flops(model, B, S, T) / sorted(figures["ours"])[len(figures["ours"]) // 2] / best
    report.add(f"dense, {size}", figures, "update", **{"share of a matrix product": f"{share:.2f}"})


def ragged(report: Report, splits, tokenizer, size: str, rounds: int, n_updates: int) -> None:
    chains = segment(splits["train"], Settings())
    rows = {
        encoder: rows_by_model("usm", chains, tokenizer, encoder)["usm"]
        for encoder in ("block-causal", "bidirectional")
    }
    programs, facts = {}, {}
    for name, encoder in (("ours", "block-causal"), ("ours, re-encoding", "bidirectional")):
        update = our_update(new_model(size, tokenizer.vocab_size), optimizer="adamw")
        batches = make_batches(rows[encoder], 2048, 0, 0)
        collated = [collate([rows[encoder][i] for i in b], 0) for b in batches]
        padded = sum(b.source.numel() + b.target.numel() for b in collated)
        facts[f"padding, {name}"] = (
            f"{1 - sum(b.source_tokens + b.target_tokens for b in collated) / padded:.1%}"
        )

        programs[name] = our_updates(update, rows[encoder], batches, n_updates)

    theirs = their_update(in_transformers(new_model(size, tokenizer.vocab_size)))
    pairs = rows["bidirectional"]
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    stream = cycle([order[i : i + 64] for i in range(0, len(order), 64)])

    def transformers():
        tokens = 0
        for _ in range(max(1, n_updates // 3)):
            chosen = [pairs[i] for i in next(stream)]
            batch = collate(chosen, 0)
            theirs(batch, torch.tensor([source_length(row) for row in chosen]))
            tokens += batch.target_tokens
        return tokens

    programs["transformers"] = transformers
    report.add(f"ragged, {size}", alternate(programs, rounds), "target token", **facts)


def our_updates(update, rows, batches, n_updates):
    """A program that makes the next updates of an epoch, and says how many target tokens it saw."""
    stream = cycle(batches)

    def program():
        tokens = 0
        for _ in range(n_updates):
            batch = collate([rows[i] for i in next(stream)], 0)
            update(batch)
            tokens += batch.target_tokens
        return tokens

    return program


def epochs(report: Report, splits, tokenizer, size: str, rounds: int, n_updates: int) -> None:
    """Seconds of an epoch: those of an update times the number of batches."""
    chains = segment(splits["train"], Settings())
    programs = {}
    for name, mode, encoder in (
        ("ours", "direct", "block-causal"),
        ("usm, encoded once", "usm", "block-causal"),
        ("usm, re-encoding", "usm", "bidirectional"),
    ):
        rows = rows_by_model(mode, chains, tokenizer, encoder)[mode]
        batches = make_batches(rows, 2048, 0, 0)
        one = our_update(new_model(size, tokenizer.vocab_size))
        update = our_updates(one, rows, batches, n_updates)
        tokens = sum(map(target_length, rows))
        programs[name] = lambda update=update, tokens=tokens: update() / tokens
    report.add(f"epoch, {size} (ours: direct)", alternate(programs, rounds), "epoch")


def seconds_of_a_token(tree: Path, n_updates: int, threads: int) -> float:
    """From the log of ``tree``'s train.py, which leaves out validation; the median report's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--test-problems", "1", "--out-dir", folder + "/run"]
        command += ["--max-steps", str(n_updates)]
        one = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, cwd=tree, env=one, check=True, capture_output=True)
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    speeds = [row["tokens_per_second"] for row in map(json.loads, lines) if "loss" in row]
    return 1 / statistics.median(speeds)


def against(report: Report, commit: str, rounds: int, n_updates: int) -> None:
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder:
        trees = {"ours": root, commit: Path(folder) / "tree"}
        subprocess.run(["git", "clone", "-q", root, trees[commit]], check=True)
        subprocess.run(["git", "-C", trees[commit], "checkout", "-q", commit], check=True)
        figures: dict[str, list[float]] = {name: [] for name in trees}
        for _ in range(rounds):
            for name, tree in trees.items():
                figures[name].append(seconds_of_a_token(tree, n_updates, report.options.threads))
    report.add("default updates", figures, "token")


def main() -> None:
    jobs = "dense,ragged,epoch"
    options = arguments(
        __doc__, data="", task="mwp", size="tiny", problems=2000, updates=20, jobs=jobs, against=""
    )
    report = Report(options)
    if options.against:
        against(report, options.against, options.rounds, 15 * options.updates)
        return report.write()
    if "dense" in options.jobs:
        dense(report, options.size, options.rounds)
    splits = examples(options.task, options.data, options.problems)
    texts = [text for e in splits["train"] for text in (e.question, e.answer)]
    tokenizer = Tokenizer.train(texts, 4096)
    if "ragged" in options.jobs:
        ragged(report, splits, tokenizer, options.size, options.rounds, options.updates)
    if "epoch" in options.jobs:
        epochs(report, splits, tokenizer, options.size, options.rounds, options.updates)
    report.write()


if __name__ == "__main__":
    main()
