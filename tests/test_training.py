"""The loop: loss reduction, schedule, and resuming bit for bit."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from conftest import read

import ases.training as training
from ases.data import Example, InputError
from ases.model import EncoderDecoder
from ases.optim import AdamW, learning_rate_at
from ases.pairs import Pair
from ases.recipe import train
from ases.run.checkpoints import Recorder, load_checkpoint, load_model, save_checkpoint
from ases.segmentation import ES
from ases.settings import ModelConfig, Settings
from ases.training import validate_on

SHAPE = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)
CONFIG = ModelConfig(vocab_size=30, dropout_rate=0.1, **SHAPE)
OPTIONS = Settings(max_steps=24, batch_tokens=60, validations=4, log_every=5)
OPTIONS = replace(OPTIONS, embedding_learning_rate=1e-2)


def row(source, target):
    return [Pair(ES, [source], target)]


# Copying the first token: something a small model learns in a few steps.
LATER = [[5 + (i * j) % 9 for j in range(1 + i % 5)] for i in range(60)]
ROWS = [row([4 + i % 20, *later, 1], [4 + i % 20, 1]) for i, later in enumerate(LATER)]


def new_model(seed=0) -> EncoderDecoder:
    torch.manual_seed(seed)
    return EncoderDecoder(CONFIG)


def new_training(model=None, **changes):
    return training.Training("usm", model or new_model(), replace(OPTIONS, **changes))


def fit(model, folder=None, resume=False, stop_at=None, **changes):
    """Train ``model`` with ``changes`` of OPTIONS; its summary."""
    trained = new_training(model, **changes)
    watcher = Recorder(folder, resume) if folder else Mock()
    watcher.start(trained)
    for report in training.fit(trained, ROWS, ROWS):
        watcher.record(trained, report)
        if trained.step == stop_at:
            raise KeyboardInterrupt
    return trained.summary()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_schedule_by_hand():
    for share, rate in ((0.0, 0.02), (0.05, 1.0), (0.1, 2.0), (0.55, 1.0), (1.0, 0.0)):
        assert learning_rate_at(share, 2.0, 0.1) == pytest.approx(rate)


def test_training_learns_and_leaves_its_records(tmp_path):
    before = validate_on(new_model(), ROWS, OPTIONS)["validation_loss"]
    summary = fit(model := new_model(), tmp_path, max_steps=120, log_every=1)
    assert summary["validation_loss"] < before / 2 and summary["steps"] == 120
    scores = validate_on(model, ROWS, OPTIONS)
    assert summary["validation_loss"] == pytest.approx(scores["validation_loss"])
    assert summary["validation_accuracy"] == scores["validation_accuracy"] > 0.6
    names = {"metrics.jsonl", "usm.best.pt", "usm.last.pt"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert torch.equal(weights(load_model(tmp_path / "usm.best.pt")), weights(model))
    first = read(tmp_path / "metrics.jsonl")[0]
    assert first["step"] == 1 and first["learning_rate"] > 0


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop_at, accumulate", [(1, 1), (7, 1), (13, 3), (23, 1)])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, stop_at, accumulate, optimizer):
    options = dict(accumulate=accumulate, optimizer=optimizer)
    fit(whole := new_model(), tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), tmp_path / "halves", stop_at=stop_at + 1, **options)
    torch.rand(5)  # the world moves on in between
    resumed = new_model(seed=9 if stop_at > 6 else 0)
    fit(resumed, tmp_path / "halves", resume=True, **options)
    assert torch.equal(weights(resumed), weights(whole))
    logs = [read(tmp_path / name / "metrics.jsonl") for name in ("whole", "halves")]
    for entry in ("model", "step", "loss", "validation_loss"):
        whole, halves = ([row.get(entry) for row in log] for log in logs)
        assert halves == whole


def test_a_finished_run_resumes_to_itself_and_mends_a_torn_log(tmp_path):
    summary = fit(model := new_model(), tmp_path)
    log = tmp_path / "metrics.jsonl"
    whole = log.read_text()
    for torn in ("", '{"model": "usm", "st'):
        log.write_text(whole + torn)
        assert fit(again := new_model(3), tmp_path, resume=True) == summary
        assert log.read_text() == whole and torch.equal(weights(again), weights(model))
    log.write_text("oops\n" + whole)
    with pytest.raises(InputError, match="metrics.jsonl:1: not a line"):
        fit(new_model(), tmp_path, resume=True)


def test_minutes_are_a_budget_too(monkeypatch):
    clock = itertools.count()  # a second passes in each update, and one in each validation
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    summary = fit(new_model(), max_steps=None, max_minutes=0.5)
    assert (summary["seconds"], summary["steps"]) == (31, 27)


def test_what_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    torch.nn.init.constant_((broken := new_model()).head.weight, math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan by step 5"):
        fit(broken, tmp_path)
    infinite = lambda *arguments: torch.tensor(math.inf)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", infinite)
    with pytest.raises(FloatingPointError, match="norm of the gradients is inf by step 5"):
        fit(new_model(), tmp_path)
    assert not (tmp_path / "usm.best.pt").exists()


def test_bad_checkpoints_are_refused_in_one_line(tmp_path):
    path, config = tmp_path / "usm.best.pt", {**CONFIG.__dict__}
    whole = {"name": "usm", "config": config, "model": new_model().state_dict()}
    contents = [None]  # no file
    for content in ({"weights": 1}, whole | {"config": config | {"d_model": 18}}, whole):
        save_checkpoint(path, "", content)
        contents.append(path.read_bytes())
    complete = contents.pop()
    for content in (*contents, b"", complete[:500], b"weights"):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(InputError, match="usm.best.pt: ") as error:
            load_model(path)
        assert "\n" not in str(error.value)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"name": "usm", "config": {}, "model": Attack()}, tmp_path / "usm.best.pt")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "usm.best.pt")
    assert not (tmp_path / "executed").exists()


#: Steps, validations → after which of them a validation is due.
DUE = {(50, 50): range(1, 51), (500, 50): range(10, 501, 10), (24, 4): [6, 12, 18, 24]}
DUE |= {(7, 3): [3, 5, 7], (5, 10): [1, 2, 3, 4, 5], (49, 49): range(1, 50)}


@pytest.mark.parametrize("steps, validations", DUE)
def test_when_validations_are_due(steps, validations):
    trained, due = new_training(max_steps=steps, validations=validations), []
    for trained.step in range(1, steps + 1):
        if trained.validations_due > trained.validations:
            trained.validations = trained.validations_due
            due.append(trained.step)
    assert due == [*DUE[steps, validations]]


# --- what nobody would notice at once ------------------------------------------------------------
def test_the_weights_of_the_best_validation_are_kept(monkeypatch):
    """The most accurate ones; between equals, those of the lower loss."""
    validated, scores = [], iter([(0.5, 1.0), (0.9, 2.0), (0.9, 1.5), (0.9, 1.8), (0.4, 1.0)])

    def scripted(model, rows, settings):
        validated.append(weights(model))
        return dict(zip(("validation_accuracy", "validation_loss"), next(scores)))

    monkeypatch.setattr(training, "validate_on", scripted)
    summary = fit(model := new_model(), max_steps=25, validations=5)
    same = [torch.equal(weights(model), then) for then in validated]
    assert summary["best_step"] == 15 and same == [False, False, True, False, False]


def test_gradients_are_clipped_before_the_step(monkeypatch):
    norms, step = [], AdamW.step

    def watched(self, *arguments):
        gradients = [p.grad for p in self.params]
        norms.append(float(torch.stack([g.norm() for g in gradients if g is not None]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(AdamW, "step", watched)
    fit(new_model(), optimizer="adamw", clip=0.01)
    assert norms == pytest.approx([0.01] * 24, rel=1e-3)  # it was larger in every step


def test_the_rates_and_decays_of_the_optimizers():
    """Of blocks, tables and norms; tests/test_muon.py says which parameters these are."""

    def rates(**changes):
        trained = new_training(weight_decay=0.4, **changes)
        return [(g.peak, g.weight_decay) for o in trained.optimizers for g in o.groups]

    given = dict(learning_rate=0.005, embedding_learning_rate=0.02)
    assert rates(**given) == [(0.005, 0.4), (0.02, 0.4), (0.02, 0.0)]
    assert rates(embedding_learning_rate=None) == [(0.01, 0.4), (0.03, 0.4), (0.03, 0.0)]
    assert rates(**given, optimizer="adamw") == [(0.005, 0.4), (0.005, 0.0)]
    assert rates(optimizer="adamw") == [(0.003, 0.4), (0.003, 0.0)]


def test_epochs_are_shuffled_anew():
    rows = [row([5 + i, 1], [5 + i, 1]) for i in range(20)]
    batches = training._stream(rows, new_training(batch_tokens=16))
    epochs = [[next(batches).source[:, 0].tolist() for _ in range(5)] for _ in range(3)]
    assert {len(batch) for epoch in epochs for batch in epoch} == {4}
    assert all(sorted(itertools.chain(*epoch)) == [*range(5, 25)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_where_dropout_is(monkeypatch):
    dropped = []

    def watched(x, p, training, inplace):
        dropped.append(x.shape[-1])
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", watched)
    new_model().train().loss_sum(training.collate(ROWS[:3], 0))
    D, F = CONFIG.d_model, CONFIG.d_ff
    # Embeddings, attention, inside the feed-forward and behind it, the states at the end.
    encoder, decoder = [D, D, F, D, D], [D, D, D, F, D, D]
    assert dropped == encoder + decoder


def test_trainings_have_their_own_random_numbers():
    """The process's random numbers stay as they were, and trainings in threads do not interfere."""
    alone, threaded = ([new_model() for _ in range(2)] for _ in range(2))
    before = torch.get_rng_state()
    for seed, model in enumerate(alone):
        fit(model, seed=seed, max_steps=16)
    with ThreadPoolExecutor(2) as threads:
        for seed, model in enumerate(threaded):
            threads.submit(fit, model, seed=seed, max_steps=16)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(*map(weights, alone))  # dropout follows the seed
    assert all(map(torch.equal, map(weights, alone), map(weights, threaded)))


def test_reported_losses_are_means_over_tokens(tmp_path):
    """A model that stands still reports one loss: every time, in training and in validation."""
    still = dict(learning_rate=1e-12, embedding_learning_rate=1e-12, weight_decay=0.0, log_every=1)
    torch.manual_seed(0)
    model = EncoderDecoder(replace(CONFIG, dropout_rate=0.0))
    fit(model, tmp_path, **still, max_steps=6, validations=2, batch_tokens=10**6)
    rows = read(tmp_path / "metrics.jsonl")
    losses = [row[name] for row in rows for name in ("loss", "validation_loss") if name in row]
    assert len(losses) == 8 and losses == pytest.approx([losses[0]] * 8, rel=1e-5)


def test_epochs_are_counted_in_parts():
    batches = len(training.make_batches(ROWS, 60, 0, 0))
    assert batches > 4
    for steps in (1, 3, batches, batches + 2):
        epochs = fit(new_model(), max_steps=steps)["epochs"]
        assert epochs == pytest.approx(steps / batches, abs=0.02)


def test_training_needs_gradients(tmp_path):
    examples = [Example(str(n), f"{n}?", f"The answer is {n}.") for n in range(9)]
    for off in (torch.no_grad(), torch.inference_mode()):
        with off, pytest.raises(ValueError, match="gradients are off"):
            train(examples, Settings(max_steps=1))
