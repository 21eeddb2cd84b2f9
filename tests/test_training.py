"""The loop: loss reduction, schedule, and resuming bit for bit."""

import json
import math
from dataclasses import replace
from threading import Thread

import pytest
import torch

import ases.training as training
from ases.data import InputError
from ases.model import EncoderDecoder
from ases.pairs import Pair, make_rows
from ases.run.checkpoints import Recorder, load_checkpoint, load_model, save_checkpoint
from ases.segmentation import ES
from ases.settings import ModelConfig, Settings
from ases.training import learning_rate_at, validate_on

CONFIG = ModelConfig(
    vocab_size=30,
    d_model=16,
    d_kv=8,
    d_ff=24,
    num_layers=1,
    num_decoder_layers=1,
    num_heads=2,
    dropout_rate=0.1,
)
OPTIONS = Settings(max_steps=24, batch_tokens=60, validations=4, log_every=5, learning_rate=1e-2)


# Copying the first token: something a small model learns in a few steps.
def row(source, target):
    return make_rows([Pair(ES, [source], target)], "block-causal")[0]


ROWS = [
    row([4 + i % 20, *[5 + (i * j) % 9 for j in range(1 + i % 5)], 1], [4 + i % 20, 1])
    for i in range(60)
]


class Silent:
    def start(self, training):
        pass

    def record(self, training, report):
        pass


def fit(model, name, rows, validation, settings, folder=None, resume=False, stop_at=None):
    trained = training.Training(name, model, settings)
    watcher = Recorder(folder, resume) if folder else Silent()
    watcher.start(trained)
    for report in training.fit(trained, rows, validation):
        watcher.record(trained, report)
        if trained.step == stop_at:
            raise KeyboardInterrupt
    return trained.summary()


def new_model(seed=0) -> EncoderDecoder:
    torch.manual_seed(seed)
    return EncoderDecoder(CONFIG)


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["model"], r["step"], r.get("loss"), r.get("validation_loss")) for r in rows]


def test_schedule_by_hand():
    assert (
        learning_rate_at(0.0, 2.0, 0.1) == 0.02
        and learning_rate_at(0.05, 2.0, 0.1) == 1.0
        and learning_rate_at(0.1, 2.0, 0.1) == 2.0
    )
    assert learning_rate_at(0.55, 2.0, 0.1) == pytest.approx(1.0) and learning_rate_at(
        1.0, 2.0, 0.1
    ) == pytest.approx(0.0)


def test_training_learns_and_leaves_its_records(tmp_path):
    before = validate_on(new_model(), ROWS, OPTIONS)["validation_loss"]
    report = fit(model := new_model(), "usm", ROWS, ROWS, replace(OPTIONS, max_steps=120), tmp_path)
    assert report["validation_loss"] < before / 2 and report["steps"] == 120
    found = validate_on(model, ROWS, OPTIONS)
    assert report["validation_loss"] == pytest.approx(found["validation_loss"])
    assert report["validation_accuracy"] == found["validation_accuracy"] > 0.6
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "metrics.jsonl",
        "usm.best.pt",
        "usm.last.pt",
    ]
    loaded = load_model(tmp_path / "usm.best.pt")
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values())
    )


def test_same_seed_same_losses_and_weights(tmp_path):
    results = []
    for name in "ab":
        (tmp_path / name).mkdir()
        fit(model := new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path / name)
        results.append((losses(tmp_path / name), [p.clone() for p in model.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stop_at, accumulate", [(1, 1), (7, 1), (13, 3), (23, 1)])
def test_a_stopped_run_resumes_bit_for_bit(tmp_path, stop_at, accumulate, optimizer):
    options = replace(OPTIONS, accumulate=accumulate, optimizer=optimizer)
    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    fit(whole := new_model(), "usm", ROWS, ROWS, options, tmp_path / "whole")

    with pytest.raises(KeyboardInterrupt):
        fit(new_model(), "usm", ROWS, ROWS, options, tmp_path / "halves", stop_at=stop_at + 1)
    torch.rand(5)  # the world moves on in between
    fit(
        resumed := new_model(seed=9 if stop_at > 6 else 0),
        "usm",
        ROWS,
        ROWS,
        options,
        tmp_path / "halves",
        resume=True,
    )
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters()))


def test_a_torn_log_is_mended_and_a_damaged_one_refused(tmp_path):
    fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path)
    log = tmp_path / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"model": "usm", "st')
    fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path, resume=True)
    assert log.read_text() == whole
    log.write_text("oops\n" + whole)
    with pytest.raises(InputError, match="metrics.jsonl:1: not a line"):
        fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path, resume=True)


def test_a_finished_run_resumes_to_itself(tmp_path):
    first = fit(model := new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    assert fit(again := new_model(3), "usm", ROWS, ROWS, OPTIONS, tmp_path, resume=True) == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == log
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))


def test_accumulation_weighs_tokens_not_batches(tmp_path):
    """Two uneven batches in one update give the update of one batch that holds both."""
    rows = [row([5, 6, 1], [7, 1]), row([5, 6, 7, 8, 9, 10, 11, 12, 1], [7, 8, 9, 10, 11, 1])]
    weights = []
    for name, tokens, accumulate in (("two", 15, 2), ("one", 30, 1)):
        (tmp_path / name).mkdir()
        model = EncoderDecoder(replace(CONFIG, dropout_rate=0.0)).double()
        model.load_state_dict(new_model().state_dict())
        fit(
            model,
            "usm",
            rows,
            rows,
            replace(OPTIONS, max_steps=1, batch_tokens=tokens, accumulate=accumulate, warmup=0.0),
            tmp_path / name,
        )
        weights.append([p.clone() for p in model.parameters()])
        first = json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        weights[-1].append(torch.tensor(first["loss"], dtype=torch.float64))
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*weights))


def test_minutes_are_a_budget_too(tmp_path):
    report = fit(
        new_model(), "usm", ROWS, ROWS, replace(OPTIONS, max_steps=None, max_minutes=0.02), tmp_path
    )
    assert 1.0 <= report["seconds"] < 20 and report["steps"] > 1


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = new_model()
    torch.nn.init.constant_(model.head.weight, math.nan)
    with pytest.raises(FloatingPointError, match="the loss is nan by step 5"):
        fit(model, "usm", ROWS, ROWS, OPTIONS, tmp_path)


def test_no_rows(tmp_path):
    with pytest.raises(ValueError, match="asm: 0 training and 60 validation rows"):
        fit(new_model(), "asm", [], ROWS, OPTIONS, tmp_path)


def test_checkpoints_hold_tensors_and_plain_values_only(tmp_path):
    fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path)
    for name in ("usm.best.pt", "usm.last.pt"):
        content = torch.load(tmp_path / name, weights_only=True)
        assert content["config"]["d_model"] == 16 and content["name"] == "usm"


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "text", "foreign", "misfit"])
def test_bad_checkpoints_are_told_in_one_line(tmp_path, damage):
    path = tmp_path / "usm.best.pt"
    whole = {"name": "usm", "config": {**CONFIG.__dict__}, "model": new_model().state_dict()}
    save_checkpoint(
        path,
        {
            "foreign": {"weights": 1},
            "misfit": whole | {"config": whole["config"] | {"d_model": 18}},
        }.get(damage, whole),
    )
    if damage == "missing":
        path.unlink()
    elif damage in ("empty", "truncated", "text"):
        path.write_bytes(
            {"empty": b"", "truncated": path.read_bytes()[:500], "text": b"weights"}[damage]
        )
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


def test_resuming_with_another_shape_is_refused(tmp_path):
    fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path)
    with pytest.raises(InputError, match="cannot be resumed"):
        fit(
            EncoderDecoder(replace(CONFIG, d_ff=20)),
            "usm",
            ROWS,
            ROWS,
            OPTIONS,
            tmp_path,
            resume=True,
        )


@pytest.mark.parametrize("steps, validations", [(500, 50), (24, 4), (7, 3), (5, 10), (100, 7)])
def test_no_validation_comes_twice(steps, validations):
    settings = replace(OPTIONS, max_steps=steps, validations=validations)
    trained, done = training.Training("usm", new_model(), settings), 0
    for trained.step in range(1, steps + 1):
        if trained.validations_due > trained.validations:
            trained.validations, done = trained.validations_due, done + 1
    assert done == min(steps, validations)


def test_the_first_update_counts(tmp_path):
    fit(new_model(), "usm", ROWS, ROWS, replace(OPTIONS, log_every=1), tmp_path)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1 and first["learning_rate"] > 0


def test_gradients_that_are_not_finite_stop_the_run(tmp_path, monkeypatch):
    infinite = lambda *arguments: torch.tensor(math.inf)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", infinite)
    with pytest.raises(FloatingPointError, match="norm of the gradients is inf by step 5"):
        fit(new_model(), "usm", ROWS, ROWS, OPTIONS, tmp_path)
    assert not (tmp_path / "usm.best.pt").exists()


def test_between_equals_the_lower_loss_is_kept():
    trained = training.Training("usm", new_model(), OPTIONS)
    for step, (accuracy, loss, kept) in enumerate(
        ((0.5, 2.0, True), (0.5, 2.5, False), (0.5, 1.5, True), (0.4, 1.0, False))
    ):
        trained.step = step
        trained.keep_if_best({"validation_loss": loss, "validation_accuracy": accuracy})
        assert (trained.best["best_step"] == step) is kept


def test_a_word_that_is_no_setting(tmp_path):
    from ases.recipe import train
    from ases.settings import Settings

    with pytest.raises(ValueError, match="encoder is 'bidir'; expected one of"):
        train([], Settings(encoder="bidir"))


# --- what nobody would notice at once ------------------------------------------------------------


def test_the_weights_of_the_best_validation_are_kept(tmp_path, monkeypatch):
    seen, accuracies = [], iter([0.5, 0.9, 0.1, 0.2])

    def scripted(model, rows, settings):
        seen.append([p.detach().clone() for p in model.parameters()])
        return {"validation_loss": 1.0, "validation_accuracy": next(accuracies)}

    monkeypatch.setattr(training, "validate_on", scripted)
    report = fit(model := new_model(), "usm", ROWS, ROWS, OPTIONS)
    assert report["best_step"] == 12 and len(seen) == 4
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), seen[1]))
    assert not all(torch.equal(p, last) for p, last in zip(model.parameters(), seen[3]))


def test_gradients_are_clipped_before_the_step(monkeypatch):
    norms, step = [], torch.optim.AdamW.step

    def watched(self, *arguments):
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in gradients if g is not None]).norm()))
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    options = replace(OPTIONS, optimizer="adamw", clip=0.01)
    fit(new_model(), "usm", ROWS, ROWS, options)
    assert norms == pytest.approx([0.01] * 24, rel=1e-3)  # it was larger in every step


def test_the_optimizers_by_hand():
    settings = replace(OPTIONS, learning_rate=0.03, muon_learning_rate=0.005, weight_decay=0.4)
    model = new_model()
    names = {id(p): name for name, p in model.named_parameters()}
    muon, adamw = training.make_optimizers(model, settings)
    groups = [*muon.param_groups, *adamw.param_groups]
    told = [([names[id(p)] for p in g["params"]], g["peak"], g["weight_decay"]) for g in groups]
    (blocks, *of_muon), (tables, *of_tables), (norms, *of_norms) = told
    assert (of_muon, of_tables, of_norms) == ([0.005, 0.4], [0.03, 0.4], [0.03, 0.0])
    assert all("norm" in name for name in norms) and len(norms) == 7
    assert sorted(tables) == [
        *("decoder_bias.table.weight", "embedding.weight"),
        *("encoder_bias.table.weight", "head.weight"),
    ]
    assert len(blocks) == 3 * 4 + 2 * 3 and not any("norm" in name for name in blocks)
    assert adamw.defaults["betas"] == (0.9, 0.98) and muon.defaults["momentum"] == 0.95
    assert training.make_optimizers(model, replace(settings, learning_rate=None))[1].param_groups[
        0
    ]["peak"] == pytest.approx(0.03)


def test_epochs_are_shuffled_anew():
    rows = [row([5 + i, 1], [5 + i, 1]) for i in range(20)]
    settings = replace(OPTIONS, batch_tokens=16)
    batches = training._stream(rows, training.Training("usm", new_model(), settings))
    orders = [[tuple(next(batches).source.flatten().tolist())] for _ in range(15)]
    epochs = [orders[i : i + 5] for i in (0, 5, 10)]  # every batch has four rows of 4 tokens
    ids = [sorted(i for batch in epoch for source in batch for i in source) for epoch in epochs]
    assert ids[0] == ids[1] == ids[2] == sorted([*range(5, 25), *[1] * 20])
    assert epochs[0] != epochs[1] != epochs[2]


def test_where_dropout_is(monkeypatch):
    dropped = []

    def watched(x, p, training, inplace):
        dropped.append(x.shape[-1])
        return x

    monkeypatch.setattr(torch.nn.functional, "dropout", watched)
    model = new_model().train()
    model.loss_sum(training.collate(ROWS[:3], 0))
    D, F = CONFIG.d_model, CONFIG.d_ff
    # Embeddings, attention, inside the feed-forward and behind it, the states at the end.
    encoder, decoder = [D, D, F, D, D], [D, D, D, F, D, D]
    assert dropped == encoder + decoder


def test_own_random_numbers():
    """The process's random numbers stay as they were, and trainings in threads do not interfere."""
    models = {(seed, place): new_model() for seed in (1, 2) for place in ("alone", "thread")}

    def work(seed, place):
        options = replace(OPTIONS, seed=seed, max_steps=40)
        fit(models[seed, place], "usm", ROWS, ROWS, options)

    def weights(seed, place):
        return torch.cat([p.detach().flatten() for p in models[seed, place].parameters()])

    before = torch.get_rng_state()
    for seed in (1, 2):
        work(seed, "alone")
    threads = [Thread(target=work, args=(seed, "thread")) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(weights(1, "alone"), weights(2, "alone"))  # dropout follows the seed
    for seed in (1, 2):
        assert torch.equal(weights(seed, "alone"), weights(seed, "thread"))
