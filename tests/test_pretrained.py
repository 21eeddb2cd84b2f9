"""T5-family checkpoints: the numbers of transformers; writing, downloads and exports; and bad files."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from conftest import logits_of, read_whole

transformers = pytest.importorskip("transformers")
from safetensors.torch import load_file, save_file
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config
from transformers import T5ForConditionalGeneration as T5
from transformers.models.mt5.modeling_mt5 import MT5LayerNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

import ases
from ases.data import InputError
from ases.decoding import greedy
from ases.extra.beam import beam_search
from ases.extra.t5 import _t5_name, load_t5, save_t5
from ases.model import EncoderDecoder
from ases.pairs import Pair, collate
from ases.run.t5 import export
from tests.test_commands import SMALL, succeed

RELU = dict(feed_forward_proj="relu")
GELU = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
BUCKETS = dict(relative_attention_num_buckets=12, relative_attention_max_distance=20)
SIZES = "d_model d_kv d_ff num_heads num_layers num_decoder_layers".split()
# The public configs, shrunk, and odd ones; in t5-v1.1 heads * d_kv is not d_model
VARIANTS = {
    "t5-v1.0": (T5Config, RELU | dict(zip(SIZES, (32, 8, 64, 4, 2)))),
    "t5-v1.1": (T5Config, GELU | dict(zip(SIZES, (32, 16, 40, 3, 2)))),
    "flan-t5": (T5Config, GELU | dict(zip(SIZES, (24, 8, 56, 6, 3, 2)))),
    "mt5": (MT5Config, GELU | dict(zip(SIZES, (32, 8, 64, 4, 2, 3)))),
    "one layer": (T5Config, GELU | dict(zip(SIZES, (16, 16, 24, 1, 1)))),
    "odd buckets": (T5Config, RELU | BUCKETS | dict(zip(SIZES, (16, 4, 24, 2, 2)))),
}
VOCABULARY = 60


def peer(variant, seed=0):
    """A transformers model with random weights; its own scheme leaves the bias near 0."""
    config_class, settings = VARIANTS[variant]
    torch.manual_seed(seed)
    common = dict(vocab_size=VOCABULARY, dropout_rate=0.0, decoder_start_token_id=0)
    model_class = MT5ForConditionalGeneration if config_class is MT5Config else T5
    model = model_class(config_class(**common, **settings)).eval()
    if variant in ("t5-v1.1", "flan-t5", "mt5"):  # as published: a head of its own
        head = torch.randn(VOCABULARY, settings["d_model"]) * settings["d_model"] ** -0.5
        model.lm_head.weight = torch.nn.Parameter(head)
    for name, parameter in model.named_parameters():
        if "layer_norm" in name or "relative_attention_bias" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return model


def folder_of(model, path, variant, kind="safetensors"):
    """The model on disk as its publishers lay it out."""
    path.mkdir(exist_ok=True)
    config = dict(model_type=model.config.model_type, vocab_size=VOCABULARY, dropout_rate=0.0)
    config |= dict(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    config |= dict(layer_norm_epsilon=1e-6, relative_attention_num_buckets=32)
    (path / "config.json").write_text(json.dumps(config | VARIANTS[variant][1]))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if kind == "safetensors":
        save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(state, path / "pytorch_model.bin")
    else:
        shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        for n, shard in enumerate(shards):
            save_file({name: state[name] for name in sorted(state)[n::2]}, path / shard)
        places = dict(zip(sorted(state), shards * len(state)))
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return path


@pytest.fixture
def good(tmp_path):
    return folder_of(peer("t5-v1.1"), tmp_path / "m", "t5-v1.1")


def inputs(seed=0, S=37, T=11):
    g = torch.Generator().manual_seed(seed)
    source, target = (torch.randint(3, VOCABULARY, (4, n), generator=g) for n in (S, T))
    lengths, parts = torch.tensor([S, 1, 20, 5]), zip(source, (S, 1, 20, 5), target, (T, 3, 1, 7))
    rows = [[Pair("", [ids[:n].tolist()], labels[:m].tolist())] for ids, n, labels, m in parts]
    return collate(rows, pad_id=0), (torch.arange(S) < lengths[:, None]).long()


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def wide_norm(self, x):
    """T5LayerNorm in the precision of x; transformers rounds its variance to float32."""
    return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_logits_loss_and_gradients(variant, dtype, tolerance, tmp_path, monkeypatch):
    if dtype == torch.float64:
        monkeypatch.setattr(T5LayerNorm, "forward", wide_norm)
        monkeypatch.setattr(MT5LayerNorm, "forward", wide_norm)
    theirs = peer(variant)
    ours = load_t5(folder_of(theirs, tmp_path / "m", variant)).to(dtype)
    theirs = theirs.to(dtype)
    batch, mask = inputs()
    expected = theirs(input_ids=batch.source, attention_mask=mask, labels=batch.target)
    real = batch.target != -100
    assert relative(ours(batch)[real], expected.logits[real]) <= tolerance
    loss = ours.loss_sum(batch) / batch.target_tokens
    assert relative(loss, expected.loss) <= tolerance

    loss.backward()
    expected.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient = gradients.pop(_t5_name(name, ours.config))
        assert relative(parameter.grad, gradient) <= tolerance, name
    tied = {"lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert gradients.keys() <= tied


class Ids:
    pad_id, eos_id, end_id = 0, 1, -1  # transformers knows one end token


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_and_beam_search(variant, tmp_path):
    theirs = peer(variant, seed=3)
    ours = load_t5(folder_of(theirs, tmp_path / "m", variant))
    batch, mask = inputs(seed=1)
    sources = [row[:n].tolist() for row, n in zip(batch.source, mask.sum(1))]
    options = dict(do_sample=False, early_stopping=False, length_penalty=1.0, max_new_tokens=12)
    options |= dict(use_cache=variant != "mt5")  # its cache wants equal depths
    for beams, search in ((1, greedy), (4, beam_search)):
        expected = theirs.generate(batch.source, attention_mask=mask, num_beams=beams, **options)
        for b, decoded in enumerate(search(ours, read_whole(ours, sources), Ids, 12)):
            ids = decoded.ids + ([1] if decoded.end == "segment" else [])
            row = expected[b, 1:].tolist()
            # then padding, which beam search takes from EOS
            assert ids == row[: len(ids)] and set(row[len(ids) :]) <= {0, 1}, (beams, b)


def test_every_layout_of_files(good, tmp_path):
    for kind in ("shards", "bin"):
        other = folder_of(peer("t5-v1.1"), tmp_path / kind, "t5-v1.1", kind)
        assert same(load_t5(good), load_t5(other)), kind


@torch.no_grad()
@pytest.mark.parametrize("variant", [*VARIANTS, "ours"])
def test_transformers_computes_the_same_from_what_we_write(variant, model, tmp_path):
    if variant == "ours":  # with a factor 1/√K that T5 does not have
        ours = EncoderDecoder(replace(model.config, start_from_state=False)).eval()
    else:
        ours = load_t5(folder_of(peer(variant), tmp_path / "m", variant))
    save_t5(ours, tmp_path / "out")
    theirs = T5.from_pretrained(tmp_path / "out").eval()
    batch, mask = inputs(2)
    real = batch.target != -100
    logits = theirs(input_ids=batch.source, attention_mask=mask, labels=batch.target).logits
    assert relative(logits[real], ours(batch)[real]) <= 1e-4
    assert variant == "ours" or same(load_t5(tmp_path / "out"), ours)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    scaled = variant in ("t5-v1.0", "odd buckets")
    assert (written["tie_word_embeddings"], written["scale_decoder_outputs"]) == (scaled, scaled)


def test_a_decoder_that_starts_from_a_state_is_not_written(model, tmp_path):
    with pytest.raises(InputError, match="starts from the encoder's state"):
        save_t5(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refused(folder, *parts):
    with pytest.raises(InputError) as error:
        load_t5(folder)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    given = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(given))


#: A setting (None: it is left out), and what the refusal says, in parts.
CONFIGS = [
    ({"model_type": "bart"}, "config.json: model_type is 'bart'; expected 't5' or 'mt5'"),
    ({"model_type": None}, "config.json: model_type is None; expected 't5' or 'mt5'"),
    ({"d_model": None}, "d_model missing"),
    ({"d_model": "32"}, "d_model is '32'; expected a whole number"),
    ({"d_model": 32.5}, "d_model is 32.5; expected a whole number"),
    ({"feed_forward_proj": "gated-silu"}, "feed_forward is 'gated-silu'"),
    ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'; expected gelu_new"),
    ({"dense_act_fn": "relu"}, "dense_act_fn is 'relu'; expected gelu_new"),
    ({"dense_act_fn": ["gelu_new"]}, "dense_act_fn is ['gelu_new']; expected gelu_new"),
    ({"num_layers": 3}, "encoder.block.2.layer.0.SelfAttention.q.weight is missing … and "),
    ({"num_layers": 1}, "block.1.layer.0.SelfAttention.k.weight is not expected … more"),
    ({"d_ff": 48}, "encoder.block.0 … DenseReluDense.wi_0.weight is (40, 32), expected (48, 32)"),
]


@pytest.mark.parametrize("changes, message", CONFIGS, ids=str)
def test_bad_configs_and_tensors_that_do_not_fit_are_refused(good, changes, message):
    edit(good, **changes)
    refused(good, *message.split(" … "))


def test_configs_that_cannot_be_read_are_refused(good, tmp_path):
    refused(tmp_path / "nowhere", "config.json: cannot be read")
    (good / "config.json").write_text("{")
    refused(good, "config.json: not JSON")


def save_tensors(folder, state):
    save_file(state, folder / "model.safetensors")


def test_half_precision_is_read_and_other_types_are_refused(good):
    expected, state = load_t5(good), load_file(good / "model.safetensors")
    save_tensors(good, {name: tensor.bfloat16() for name, tensor in state.items()})
    for a, b in zip(load_t5(good).state_dict().values(), expected.state_dict().values()):
        assert a.dtype == torch.float32 and torch.equal(a, b.bfloat16().float())
    save_tensors(good, state | {"shared.weight": state["shared.weight"].int()})
    refused(good, "shared.weight is torch.int32, expected floating point")


def test_what_a_config_may_leave_out(good):
    left_out = "layer_norm_epsilon relative_attention_num_buckets eos_token_id".split()
    edit(good, dense_act_fn="gelu_new", **dict.fromkeys(left_out))  # newer ones have the first
    loaded = load_t5(good).config
    assert (loaded.layer_norm_epsilon, loaded.relative_attention_num_buckets) == (1e-6, 32)
    assert loaded.relative_attention_max_distance == 128 and loaded.eos_token_id == 1


def test_an_untied_head_must_be_there(good):
    state = load_file(good / "model.safetensors")
    del state["lm_head.weight"]
    save_tensors(good, state)
    refused(good, "lm_head.weight is missing")
    edit(good, tie_word_embeddings=None)  # T5 ties by default, and scales
    loaded = load_t5(good)
    assert loaded.head is None and loaded.config.scale_decoder_outputs
    edit(good, model_type="mt5")  # mT5 does neither
    refused(good, "lm_head.weight is missing")
    edit(good, tie_word_embeddings=True)
    assert not load_t5(good).config.scale_decoder_outputs


def test_damaged_weights_are_refused(good):
    weights, pickled = good / "model.safetensors", good / "pytorch_model.bin"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:100], whole[:-50], b"not tensors at all"):
        weights.write_bytes(damaged)
        refused(good, "model.safetensors: not readable as safetensors")
    pickled.write_bytes(b"x")
    weights.write_bytes(whole)
    load_t5(good)  # public folders often have both: safetensors counts
    weights.unlink()
    refused(good, "pytorch_model.bin: not a readable state dict")
    torch.save([1, 2], pickled)
    refused(good, "pytorch_model.bin: not a state dict")
    pickled.unlink()
    refused(good, "no weights")


def test_bad_indices_of_shards_are_refused(good):
    (good / "model.safetensors").rename(good / "elsewhere")
    index = good / "model.safetensors.index.json"
    for content in ("{", "{}", '{"weight_map": {"a": "../m/elsewhere"}}'):
        index.write_text(content)
        refused(good, "not an index of shards")
    index.write_text('{"weight_map": {"a": "gone.safetensors"}}')
    refused(good, "gone.safetensors: not readable")


def test_no_pickle_is_executed(good, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (good / "model.safetensors").unlink()
    weights = good / "pytorch_model.bin"
    torch.save({"shared.weight": Attack()}, weights)
    refused(good, "not a readable state dict")
    weights.write_bytes(pickle.dumps(Attack()))
    refused(good, "not a readable state dict")
    assert not (tmp_path / "executed").exists()


def test_a_run_is_exported_with_its_tokenizer(tmp_path):
    options = "--mode dsm --encoder bidirectional --max-steps 6".split()
    succeed("train.py", *options, "--out-dir", tmp_path / "run", *SMALL)
    places = export(tmp_path / "run", tmp_path / "t5")
    assert [place.name for place in places] == ["esm", "asm"]

    writer = ases.load_run(tmp_path / "run")
    ours, text = writer.tokenizer, "Tom has 3 boxes of 4 pens."
    ids, eos = ours.encode(text), ours.eos_id
    source, prefix = [*ids, eos], torch.tensor([[0, 5, 6]])
    for place in places:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        assert tokenizer(text).input_ids == ids and tokenizer.decode(ids) == text
        assert tokenizer(f"{text}</s>").input_ids == source and tokenizer.eos_token_id == eos
        assert tokenizer.unk_token == "<pad>" and len(tokenizer) == ours.vocab_size

        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(place).eval()
        settings = theirs.generation_config
        assert settings.decoder_start_token_id == settings.pad_token_id == 0
        assert settings.eos_token_id == [eos, ours.end_id]

        model, sources = writer.models[place.name], torch.tensor([source])
        with torch.no_grad():
            expected = theirs(input_ids=sources, decoder_input_ids=prefix).logits
            written = theirs.generate(sources)[0, 1:].tolist()
            assert torch.allclose(logits_of(model, sources, prefix), expected, atol=1e-4)
        [segment] = greedy(model, read_whole(model, [source]), ours, writer.settings.max_tokens)
        assert written[: len(segment.ids)] == segment.ids
    with pytest.raises(InputError, match="choose a new folder"):
        export(tmp_path / "run", tmp_path / "t5")
