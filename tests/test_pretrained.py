"""T5-family checkpoints against transformers: states, logits, loss, gradients, greedy and beam search; and bad files."""

import json
import pickle
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import logits_of, read_whole

transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file
from transformers import (
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from ases.data import InputError
from ases.decoding import greedy
from ases.extra.beam import beam_search
from ases.extra.t5 import load_t5, save_t5
from ases.model import EncoderDecoder
from ases.pairs import Pair, collate, make_rows
from ases.run.t5 import fetch

V10 = dict(feed_forward_proj="relu")
V11 = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# Variants in the shapes of the public configs, shrunk, and odd ones.
VARIANTS = {
    "t5-v1.0": (T5Config, V10 | dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)),
    "t5-v1.1": (
        T5Config,
        V11 | dict(d_model=32, d_kv=16, d_ff=40, num_layers=2, num_heads=3),
    ),  # heads · d_kv ≠ d_model
    "flan-t5": (
        T5Config,
        V11 | dict(d_model=24, d_kv=8, d_ff=56, num_layers=3, num_decoder_layers=2, num_heads=6),
    ),
    "mt5": (
        MT5Config,
        dict(
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_decoder_layers=3,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
    ),
    "one layer": (T5Config, V11 | dict(d_model=16, d_kv=16, d_ff=24, num_layers=1, num_heads=1)),
    "odd buckets": (
        T5Config,
        V10
        | dict(
            d_model=16,
            d_kv=4,
            d_ff=24,
            num_layers=2,
            num_heads=2,
            relative_attention_num_buckets=12,
            relative_attention_max_distance=20,
        ),
    ),
}
VOCABULARY = 60


def peer(variant, dtype=torch.float32, seed=0):
    """A transformers model with random weights of a size that matters (its own scheme leaves the bias near 0)."""
    config_class, settings = VARIANTS[variant]
    torch.manual_seed(seed)
    config = config_class(
        vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0, **settings
    )
    model = (
        MT5ForConditionalGeneration if config_class is MT5Config else T5ForConditionalGeneration
    )(config).eval()
    if variant in ("t5-v1.1", "flan-t5", "mt5"):  # as published: a head of its own
        model.lm_head.weight = torch.nn.Parameter(
            torch.randn(VOCABULARY, config.d_model) * config.d_model**-0.5
        )
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model.to(dtype)


def folder_of(model, path, variant, kind="safetensors"):
    """The model on disk as its publishers lay it out."""
    path.mkdir(exist_ok=True)
    settings = VARIANTS[variant][1]
    config = {
        "model_type": model.config.model_type,
        "vocab_size": VOCABULARY,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
    } | settings
    (path / "config.json").write_text(json.dumps(config))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if kind == "safetensors":
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(state, path / "pytorch_model.bin")
    else:
        names = sorted(state)
        shards = {
            "model-00001-of-00002.safetensors": names[::2],
            "model-00002-of-00002.safetensors": names[1::2],
        }
        for shard, keys in shards.items():
            save_file({k: state[k] for k in keys}, path / shard)
        (path / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {k: s for s, keys in shards.items() for k in keys}})
        )
    return path


def inputs(seed=0, B=4, S=37, T=11):
    g = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(3, VOCABULARY, (B, S), generator=g),
        torch.randint(3, VOCABULARY, (B, T), generator=g),
    )
    lengths, target_lengths = torch.tensor([S, 1, 20, 5][:B]), torch.tensor([T, 3, 1, 7][:B])
    pairs = [
        Pair("", [row[:n].tolist()], ids[:m].tolist())
        for row, n, ids, m in zip(source, lengths, target, target_lengths)
    ]
    rows = [row for pair in pairs for row in make_rows([pair], "bidirectional")]
    mask = (torch.arange(S) < lengths[:, None]).long()
    return collate(rows, pad_id=0), mask


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def wide_norms(monkeypatch):
    """Keep the variance of T5LayerNorm in float64, which transformers rounds to float32."""
    from transformers.models.mt5 import modeling_mt5
    from transformers.models.t5 import modeling_t5

    def forward(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", forward)
    monkeypatch.setattr(modeling_mt5.MT5LayerNorm, "forward", forward)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "precision, tolerance", [("float32", 1e-4), ("float64", 1e-6), ("float64, wide norms", 1e-9)]
)
def test_states_logits_loss_and_gradients(variant, precision, tolerance, tmp_path, monkeypatch):
    if "wide" in precision:
        wide_norms(monkeypatch)
    dtype = getattr(torch, precision.split(",")[0])
    theirs = peer(variant)
    ours = load_t5(folder_of(theirs, tmp_path / "m", variant)).to(dtype)
    theirs = theirs.to(dtype)
    batch, mask = inputs()
    expected = theirs(
        input_ids=batch.source, attention_mask=mask, labels=batch.target, output_hidden_states=True
    )
    real = batch.target != -100
    assert relative(ours(batch)[real], expected.logits[real]) <= tolerance
    loss = ours.loss_sum(batch) / batch.target_tokens
    assert relative(loss, expected.loss) <= tolerance

    loss.backward()
    expected.loss.backward()
    from ases.extra.t5 import _t5_name

    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    seen = set()
    for name, parameter in ours.named_parameters():
        t5 = _t5_name(name, ours.config)
        seen.add(t5)
        assert relative(parameter.grad, gradients[t5]) <= tolerance, name
    assert set(gradients) - seen <= {
        "lm_head.weight",
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
    }


class Ids:
    pad_id, eos_id, end_id = 0, 1, -1  # transformers knows one end token


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_and_beam_search(variant, tmp_path):
    theirs = peer(variant, seed=3)
    ours = load_t5(folder_of(theirs, tmp_path / "m", variant))
    batch, mask = inputs(seed=1)
    sources = [row[:n].tolist() for row, n in zip(batch.source, mask.sum(1))]
    for beams in (1, 4):
        expected = theirs.generate(
            input_ids=batch.source,
            attention_mask=mask,
            max_new_tokens=12,
            num_beams=beams,
            do_sample=False,
            early_stopping=False,
            length_penalty=1.0,
            output_scores=True,
            return_dict_in_generate=True,
            use_cache=variant != "mt5",
        )  # its cache wants equal depths
        cache = read_whole(ours, sources)
        if beams == 1:
            found = greedy(ours, cache, Ids, 12)
        else:
            found = beam_search(ours, cache, Ids, 12, width=4)
        for b, (decoded, row) in enumerate(zip(found, expected.sequences)):
            ids = decoded.ids + ([1] if decoded.end == "segment" else [])
            assert ids == row[1 : 1 + len(ids)].tolist() and set(row[1 + len(ids) :].tolist()) <= {
                0,
                1,
            }, (beams, b)  # then padding, which beam search takes from EOS
            if beams == 4:
                assert decoded.score == pytest.approx(expected.sequences_scores[b].item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["safetensors", "shards", "bin"])
def test_every_layout_of_files(kind, tmp_path):
    theirs = peer("t5-v1.1")
    one, other = (
        load_t5(folder_of(theirs, tmp_path / "a", "t5-v1.1")),
        load_t5(folder_of(theirs, tmp_path / "b", "t5-v1.1", kind)),
    )
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values())
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_written_models_are_loaded_by_transformers(variant, tmp_path):
    ours = load_t5(folder_of(peer(variant), tmp_path / "m", variant))
    save_t5(ours, tmp_path / "out")
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    batch, mask = inputs(2)
    real = batch.target != -100
    with torch.no_grad():
        logits = theirs(input_ids=batch.source, attention_mask=mask, labels=batch.target).logits
        assert relative(logits[real], ours(batch)[real]) <= 1e-4
    again = load_t5(tmp_path / "out")
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values())
    )


def test_a_model_of_our_own_is_written_as_t5(model, tmp_path):
    with pytest.raises(InputError, match="starts from the encoder's state"):
        save_t5(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = EncoderDecoder(replace(model.config, start_from_state=False)).eval()
    save_t5(model, tmp_path / "out")
    theirs = T5ForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    source = torch.randint(4, 90, (2, 9))
    with torch.no_grad():
        expected = logits_of(model, source, torch.tensor([[0, 5], [0, 6]]))
        assert (
            relative(
                theirs(input_ids=source, decoder_input_ids=torch.tensor([[0, 5], [0, 6]])).logits,
                expected,
            )
            <= 1e-4
        )


@pytest.fixture
def good(tmp_path):
    return folder_of(peer("t5-v1.1"), tmp_path / "m", "t5-v1.1")


def refused(folder, *parts):
    with pytest.raises(InputError) as error:
        load_t5(folder)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )


def test_bad_configs(good, tmp_path):
    refused(tmp_path / "nowhere", "config.json: cannot be read")
    for family in ("bart", "gpt2", None):
        edit(good, model_type=family)
        refused(good, "config.json: model_type is", "'t5' or 'mt5'")
    edit(good, model_type="t5", d_model=None)
    refused(good, "d_model missing")
    edit(good, d_model="32")
    refused(good, "d_model is '32'; expected a whole number")
    edit(good, d_model=32.5)
    refused(good, "d_model is 32.5; expected a whole number")
    edit(good, d_model=32, feed_forward_proj="gated-silu")
    refused(good, "feed_forward is 'gated-silu'")
    (good / "config.json").write_text("{")
    refused(good, "config.json: not JSON")


def test_tensors_that_do_not_fit_are_named(good):
    edit(good, num_layers=3)
    refused(good, "encoder.block.2.layer.0.SelfAttention.q.weight is missing", "and ")
    edit(good, num_layers=1)
    refused(good, "block.1.layer.0.SelfAttention.k.weight is not expected", "more")
    edit(good, num_layers=2, d_ff=48)
    refused(
        good, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight is (40, 32), expected (48, 32)"
    )
    edit(good, d_ff=40)
    state = load_file(good / "model.safetensors")
    save_file(
        state | {"shared.weight": state["shared.weight"].to(torch.int32)},
        good / "model.safetensors",
    )
    refused(good, "shared.weight is torch.int32, expected floating point")


def test_an_untied_head_must_be_there(good):
    state = load_file(good / "model.safetensors")
    head = state.pop("lm_head.weight")
    save_file(state, good / "model.safetensors")
    refused(good, "lm_head.weight is missing")
    edit(good, tie_word_embeddings=None)  # T5 ties by default, and scales
    assert load_t5(good).head is None and load_t5(good).config.scale_decoder_outputs
    edit(good, model_type="mt5")  # mT5 does neither
    refused(good, "lm_head.weight is missing")
    edit(good, tie_word_embeddings=True)
    assert not load_t5(good).config.scale_decoder_outputs
    edit(good, model_type="t5")
    edit(good, tie_word_embeddings=False)
    save_file(state | {"lm_head.weight": head}, good / "model.safetensors")
    assert load_t5(good).head is not None


def test_other_activations_are_refused(good):
    for activation in ("silu", "gelu", "relu", ["gelu_new"]):
        edit(good, dense_act_fn=activation)
        refused(good, f"dense_act_fn is {activation!r}; expected gelu_new")
    edit(good, dense_act_fn="gelu_new")
    load_t5(good)


def test_half_precision_is_read(good):
    expected = load_t5(good)
    save_file(
        {k: v.bfloat16() for k, v in load_file(good / "model.safetensors").items()},
        good / "model.safetensors",
    )
    for a, b in zip(load_t5(good).state_dict().values(), expected.state_dict().values()):
        assert a.dtype == torch.float32 and torch.equal(a, b.bfloat16().float())


def test_damaged_and_doubled_files(good):
    whole = (good / "model.safetensors").read_bytes()
    for damage in (b"", whole[:100], whole[:-50], b"not tensors at all"):
        (good / "model.safetensors").write_bytes(damage)
        refused(good, "model.safetensors: not readable as safetensors")
    (good / "pytorch_model.bin").write_bytes(b"x")
    (good / "model.safetensors").write_bytes(whole)
    load_t5(good)  # public folders often have both: safetensors counts
    (good / "model.safetensors").unlink()
    refused(good, "pytorch_model.bin: not a readable state dict")
    torch.save([1, 2], good / "pytorch_model.bin")
    refused(good, "pytorch_model.bin: not a state dict")
    (good / "pytorch_model.bin").unlink()
    refused(good, "no weights")
    for index in ("{", "{}", '{"weight_map": {"a": "../m/model.safetensors"}}'):
        (good / "model.safetensors.index.json").write_text(index)
        refused(good, "not an index of shards")
    (good / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    refused(good, "gone.safetensors: not readable")


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_no_pickle_is_executed(good, tmp_path):
    (good / "model.safetensors").unlink()
    for content in (
        {"shared.weight": Attack(str(tmp_path / "executed"))},
        Attack(str(tmp_path / "executed")),
    ):
        with open(good / "pytorch_model.bin", "wb") as file:
            pickle.dump(content, file)
        refused(good, "not a readable state dict")
        torch.save(content, good / "pytorch_model.bin")
        refused(good, "not a readable state dict")
    assert not (tmp_path / "executed").exists()


def test_download_from_a_server(good, tmp_path, monkeypatch):
    """Against a hub of the test's own, on loopback."""
    files = {p.name: p.read_bytes() for p in good.iterdir()} | {"README.md": b"not wanted"}

    class Hub(BaseHTTPRequestHandler):
        def reply(self, body, headers=(), send=True):
            self.send_response(200)
            for key, value in (("Content-Length", str(len(body))), *headers):
                self.send_header(key, value)
            self.end_headers()
            if send:
                self.wfile.write(body)

        def do_GET(self, send=True):
            name = self.path.split("?")[0].rsplit("/", 1)[-1]
            if self.path.startswith("/api/models/some/model/tree/"):
                tree = [
                    {"type": "file", "path": f, "size": len(body), "oid": "0" * 40}
                    for f, body in files.items()
                ]
                self.reply(json.dumps(tree).encode(), [("Content-Type", "application/json")], send)
            elif self.path.startswith("/api/models/some/model"):
                siblings = [{"rfilename": f} for f in files]
                self.reply(
                    json.dumps(
                        {"id": "some/model", "sha": "0" * 40, "siblings": siblings}
                    ).encode(),
                    [("Content-Type", "application/json")],
                    send,
                )
            elif self.path.startswith("/some/model/resolve/") and name in files:
                self.reply(
                    files[name], [("ETag", f'"{hash(name)}"'), ("X-Repo-Commit", "0" * 40)], send
                )
            else:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def do_HEAD(self):
            self.do_GET(send=False)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        import subprocess
        import sys
        from pathlib import Path

        environment = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        call = lambda name, out: subprocess.run(
            [sys.executable, "-m", "ases.run.t5", "download", name, str(out)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        done = call("some/model", tmp_path / "got")
        assert done.returncode == 0, done.stderr
        assert {p.name for p in (tmp_path / "got").iterdir() if p.is_file()} == {
            "config.json",
            "model.safetensors",
        }
        assert (tmp_path / "got" / "model.safetensors").read_bytes() == files["model.safetensors"]
        load_t5(tmp_path / "got")
        missing = call("no/model", tmp_path / "none")
        assert (
            missing.returncode == 2
            and missing.stderr.startswith("error: no/model: cannot be downloaded")
            and missing.stderr.count("\n") == 1
        )
    finally:
        server.shutdown()
    with pytest.raises(InputError, match="is not empty"):
        fetch("some/model", tmp_path / "got")


def test_a_run_is_exported_with_its_tokenizer(tmp_path):
    import ases
    from ases.run.t5 import export
    from tests.test_commands import SMALL, succeed

    options = ["--encoder", "bidirectional", "--max-steps", 6, "--out-dir", tmp_path / "run"]
    succeed("train.py", "--mode", "dsm", *options, *SMALL)
    places = export(tmp_path / "run", tmp_path / "t5")
    assert [place.name for place in places] == ["esm", "asm"]

    writer = ases.load_run(tmp_path / "run")
    text = "Tom has 3 boxes of 4 pens."
    for place in places:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        ids = writer.tokenizer.encode(text)
        assert tokenizer(text).input_ids == ids and tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id == writer.tokenizer.eos_id
        assert tokenizer.unk_token == "<pad>" and len(tokenizer) == writer.tokenizer.vocab_size
        assert tokenizer(f"{text}</s>").input_ids == [*ids, writer.tokenizer.eos_id]
        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(place).eval()
        sources = torch.tensor([[*ids, writer.tokenizer.eos_id]])
        own = writer.models[place.name]
        batch = collate([[Pair("", [sources[0].tolist()], [5, 6, 1])]], 0)
        with torch.no_grad():
            expected = theirs(input_ids=sources, decoder_input_ids=torch.tensor([[0, 5, 6]])).logits
            assert torch.allclose(own(batch), expected, atol=1e-4)
        generation = theirs.generation_config
        assert generation.decoder_start_token_id == generation.pad_token_id == 0
        assert generation.eos_token_id == [writer.tokenizer.eos_id, writer.tokenizer.end_id]
        with torch.no_grad():
            written = theirs.generate(sources)[0, 1:].tolist()
        cache = read_whole(own, [sources[0].tolist()])
        [greedily] = greedy(own, cache, writer.tokenizer, writer.settings.max_tokens)
        assert written[: len(greedily.ids)] == greedily.ids
    with pytest.raises(InputError, match="choose a new folder"):
        export(tmp_path / "run", tmp_path / "t5")
