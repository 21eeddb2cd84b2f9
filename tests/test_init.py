"""Fine-tuning from a T5-family folder on disk: its tokenizer, and the whole command."""

import json
import shutil

import pytest
import tokenizers
import torch
from conftest import TOY, TOY_PIECES, make_direct_pair, read, write_lines
from test_commands import fail, succeed
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from ases.data import InputError
from ases.extra.t5 import T5Tokenizer, load_t5, lost_characters, save_t5
from ases.model import EncoderDecoder
from ases.pairs import make_pairs
from ases.segmentation import AS, ES, make_segments
from ases.settings import ModelConfig

pytest.importorskip("safetensors")


FOLDED = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
SHAPE = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)


def save_small(path, vocabulary):
    torch.manual_seed(0)
    config = ModelConfig(vocabulary, scale_scores=False, start_from_state=False, **SHAPE)
    save_t5(EncoderDecoder(config), path)


@pytest.fixture
def folder(tmp_path):
    """A small T5 v1.1 with its tokenizer, as somebody would have it on disk.

    The tokenizer has ▁ for blanks, newlines folded, an unknown token, sentinels at the end.
    """
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), FOLDED])
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = dict(special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    trainer = trainers.UnigramTrainer(vocab_size=200, show_progress=False, **special)
    letters = "0123456789 abcdefghijklmnopqrstuvwxyz # The answer is 12."
    backend.train_from_iterator([TOY.question, TOY.answer, letters] * 5, trainer)
    backend.add_special_tokens([f"<extra_id_{i}>" for i in range(10)])
    backend.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    path = tmp_path / "t5"
    save_small(path, backend.get_vocab_size() + 12)  # rounded up, as T5's are
    backend.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def t5(folder):
    return T5Tokenizer.load(folder / "tokenizer.json")


def test_sentinels_take_the_places_of_our_tokens(t5):
    assert (t5.pad_id, t5.eos_id) == (0, 1)
    assert t5.end_id == t5.backend.token_to_id("<extra_id_0>")
    assert t5.eos_id not in t5.encode(TOY.question)
    assert t5.end_id not in t5.encode("a <extra_id_0> b")


def test_pieces_share_one_encoding(t5):
    ids = t5.encode_pieces(TOY_PIECES)
    assert [i for piece in ids for i in piece] == t5.encode(TOY.answer)
    assert [t5.decode(piece).strip() for piece in ids] == [p.strip() for p in TOY_PIECES]
    assert t5.encode_pieces([]) == []


def test_a_token_belongs_to_the_piece_of_its_first_letter(tmp_path):
    """Where Metaspace alone splits words, a newline belongs to the word behind it."""
    words = ["▁Tom", "▁has", ".", "▁He", "▁3"]
    vocabulary = [(token, -1.0) for token in ("<pad>", "</s>", "<unk>", *words, *"Tomhas.He3▁")]
    backend = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    backend.normalizer = FOLDED
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "</s>", "<extra_id_0>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = T5Tokenizer.load(tmp_path / "tokenizer.json")
    ids = tokenizer.encode_pieces(["Tom has.\n", "He has 3."])
    tokens = [list(map(tokenizer.backend.id_to_token, piece)) for piece in ids]
    assert tokens == [["▁Tom", "▁has", "."], ["▁He", "▁has", "▁3", "."]]


def test_the_modes_share_their_target_tokens(t5, tokenizer):
    """A chain is encoded once, so USM's targets are direct's, and its chain decodes to the same."""
    pieces = ["Tom has 3,", "so 3 * 4.", " He eats 2,", "so 10."]  # alone, "so" gets a blank
    segments, chain = make_segments(pieces, [AS, ES, ES, AS]), "".join(pieces)
    for t in (t5, tokenizer):
        direct = make_direct_pair(TOY.question, pieces, t).target
        pairs = make_pairs(TOY.question, segments, t)
        dealt = [i for pair in pairs for i in pair.target if i not in t.special_ids]
        assert dealt == [i for i in direct if i not in t.special_ids] == t.encode(chain)
        assert t.decode(dealt) == chain


def test_the_tokenizer_of_mt5(folder, tmp_path):
    """Its sentinels have a blank in their names, and converted it has more ids than embeddings."""
    content = read(folder / "tokenizer.json")
    content["added_tokens"] = [t for t in content["added_tokens"] if "extra" not in t["content"]]
    content["model"]["vocab"] += [[f"▁<extra_id_{i}>", -20.0] for i in range(3)]
    rows = len(content["model"]["vocab"])
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.add_tokens(["zebra"])
    backend.add_special_tokens([f"<extra_id_{i}>" for i in range(5)])
    (tmp_path / "tokenizer.json").write_text(backend.to_str())

    loaded = T5Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.end_id == rows - 3
    loaded.set_rows(rows, tmp_path)
    assert max(loaded.encode(TOY.answer)) < rows < loaded.vocab_size
    for encode in (loaded.encode, lambda text: loaded.encode_pieces([text])):
        with pytest.raises(InputError, match="token 'zebra' .* has the id"):
            encode("a zebra")
    with pytest.raises(InputError, match="special tokens need more than the model's 40 ids"):
        loaded.set_rows(40, tmp_path)


def test_lost_characters_are_counted(t5, tokenizer):
    share, lost = lost_characters(t5, ["a < b\n", "{ab}"])
    assert set(lost) == set("<{}\n") and share == 4 / 8
    assert lost_characters(tokenizer, ["a < b\n{}胰"]) == (0.0, "")


@pytest.fixture
def train(folder, tmp_path):
    """Trains from the folder, on 30 problems, into tmp_path / "run"."""
    question = "Tom has {} boxes of 4 apples. How many?".format
    answer = "Tom has {0} boxes, so {0} * 4 = {1}.\n#### {1}".format
    rows = [{"question": question(i), "answer": answer(i, 4 * i)} for i in range(30)]
    data = write_lines(tmp_path / "mine.jsonl", rows)
    line = f"train.py --init {folder} --data {data} --device cpu --out-dir {tmp_path / 'run'}"
    return lambda options: succeed(f"{line} {options}")


def test_fine_tuning_with_the_tokenizer_of_the_checkpoint(train, tmp_path):
    done, run = train("--mode usm --max-steps 8"), tmp_path / "run"
    assert "of the training characters are not in its vocabulary: '\\n'" in done.stdout
    assert (run / "tokenizer.json").exists() and read(run / "results.json")["n"] == 3
    config = torch.load(run / "usm.best.pt", weights_only=True)["config"]
    assert not config["scale_scores"] and not config["start_from_state"]
    done = succeed(f"evaluate.py --run {run} --question", "Tom has 3 boxes. How many?")
    assert "stopped by" in done.stdout
    succeed("train.py", "--resume", run)


def test_training_starts_from_the_checkpoints_weights(folder, train, tmp_path):
    train("--mode direct --max-steps 1 --learning-rate 1e-12")  # nearly still
    state = torch.load(tmp_path / "run" / "direct.best.pt", weights_only=True)["model"]
    for name, tensor in load_t5(folder).state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-9), name


def test_mistakes_are_reported(folder, tmp_path):
    init = f"train.py --out-dir {tmp_path / 'run'} --init"
    assert "--size cannot be combined with --init" in fail(f"train.py --init {folder} --size tiny")
    assert "config.json: cannot be read" in fail("train.py", "--init", tmp_path / "nowhere")
    tokenizer = (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    assert "only spiece.model" in fail(f"{init} {folder}")  # as in an mT5 folder
    save_small(tmp_path / "small", 50)
    shutil.copy(tokenizer, tmp_path / "small" / "tokenizer.json")
    assert "need more than the model's 50 ids" in fail(f"{init} {tmp_path / 'small'}")
