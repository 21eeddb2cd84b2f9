"""Fine-tuning from a T5-family folder on disk: its tokenizer, what it cannot write, and the whole command."""

import json

import pytest
import tokenizers
import torch
from conftest import TOY, TOY_PIECES, make_direct_pair
from test_commands import fail, succeed
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from ases.data import InputError
from ases.extra.t5 import T5Tokenizer, load_t5, lost_characters, save_t5
from ases.model import EncoderDecoder
from ases.pairs import make_pairs
from ases.segmentation import AS, ES, make_segments
from ases.settings import ModelConfig
from ases.tokenizer import Tokenizer

pytest.importorskip("safetensors")


def t5_tokenizer(path):
    """A unigram tokenizer built as T5's is: blanks as ▁, newlines folded, an unknown token, sentinels at the end."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " ")]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    backend.train_from_iterator(
        [TOY.question, TOY.answer, "0123456789 abcdefghijklmnopqrstuvwxyz # The answer is 12."] * 5,
        trainer,
    )
    backend.add_special_tokens([f"<extra_id_{i}>" for i in range(10)])
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    backend.save(str(path))
    return backend.get_vocab_size()


@pytest.fixture
def folder(tmp_path):
    """A small T5 v1.1 with its tokenizer, as somebody would have it on disk."""
    path = tmp_path / "t5"
    path.mkdir()
    vocabulary = t5_tokenizer(path / "tokenizer.json")
    torch.manual_seed(0)
    shape = dict(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2)
    shape |= dict(scale_scores=False, start_from_state=False)
    rounded_up = vocabulary + 12  # as T5's are
    save_t5(EncoderDecoder(ModelConfig(vocab_size=rounded_up, **shape)), path)
    return path


def test_sentinels_take_the_places_of_our_tokens(folder):
    tokenizer = T5Tokenizer.load(folder / "tokenizer.json")
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    assert tokenizer.end_id == tokenizer.backend.token_to_id("<extra_id_0>")
    assert tokenizer.eos_id not in tokenizer.encode(TOY.question)
    assert tokenizer.end_id not in tokenizer.encode("a <extra_id_0> b")


def test_pieces_share_one_encoding(folder):
    tokenizer = T5Tokenizer.load(folder / "tokenizer.json")
    ids = tokenizer.encode_pieces(TOY_PIECES)
    assert [i for piece in ids for i in piece] == tokenizer.encode(TOY.answer)
    assert [tokenizer.decode(piece).strip() for piece in ids] == [p.strip() for p in TOY_PIECES]
    assert tokenizer.encode_pieces([]) == []


def test_a_token_belongs_to_the_piece_of_its_first_character_that_is_not_blank(tmp_path):
    """Where Metaspace alone splits words, a newline is the blank of the word behind it."""
    backend = tokenizers.Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    pieces = ["Tom has 3 boxes.\n", "He has 12 apples.\n"]
    backend.train_from_iterator(["".join(pieces)] * 5 + ["He He He has"], trainer)
    backend.add_special_tokens(["<extra_id_0>", "<extra_id_1>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = T5Tokenizer.load(tmp_path / "tokenizer.json")
    found = [tokenizer.decode(ids).strip() for ids in tokenizer.encode_pieces(pieces)]
    assert found == ["Tom has 3 boxes.", "He has 12 apples."]


@pytest.mark.parametrize("labels", ["interleaved", "alike", "abstractive first"])
def test_the_modes_share_their_target_tokens(folder, labels):
    """A chain is encoded once, so USM's targets are direct's, and its chain decodes to the same."""
    tokenizer = T5Tokenizer.load(folder / "tokenizer.json")
    own = Tokenizer.train([TOY.question, TOY.answer], 300)
    given = {"interleaved": [ES, AS, ES, AS, ES], "alike": [ES, ES, AS, AS, AS]}
    segments = make_segments(TOY_PIECES, given.get(labels, [AS, AS, ES, AS, AS]))
    for t in (tokenizer, own):
        direct = make_direct_pair(TOY.question, TOY_PIECES, t).target
        pairs = make_pairs(TOY.question, segments, t)
        dealt = [i for pair in pairs for i in pair.target if i not in t.special_ids]
        assert dealt == [i for i in direct if i not in t.special_ids] == t.encode(TOY.answer)
        assert t.decode(dealt) == TOY.answer


def test_the_tokenizer_of_mt5(folder, tmp_path):
    """Its sentinels have a blank in their names, and converted it has more ids than embeddings."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    content = json.loads(tokenizer.to_str())
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


def test_lost_characters_are_counted(folder):
    share, lost = lost_characters(T5Tokenizer.load(folder / "tokenizer.json"), ["a < b\n", "{ab}"])
    assert set(lost) == set("<{}\n") and share == 4 / 8
    own = Tokenizer.train(["a"], 300)
    assert lost_characters(own, ["a < b\n{}胰"]) == (0.0, "")


def test_fine_tuning_with_a_checkpoints_own_tokenizer(folder, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text(
        "".join(
            json.dumps(
                {
                    "question": f"Tom has {i} boxes of 4 apples. How many?",
                    "answer": f"Tom has {i} boxes, so {i} * 4 = {4 * i}.\n#### {4 * i}",
                }
            )
            + "\n"
            for i in range(30)
        )
    )
    arguments = [
        "--init",
        folder,
        "--mode",
        "usm",
        "--data",
        data,
        "--max-steps",
        8,
        "--device",
        "cpu",
    ]
    done = succeed("train.py", *arguments, "--out-dir", tmp_path / "run")
    assert "of the training characters cannot be written: '\\n'" in done.stdout
    assert (tmp_path / "run" / "tokenizer.json").exists()
    config = torch.load(tmp_path / "run" / "usm.best.pt", weights_only=True)["config"]
    assert not config["scale_scores"] and not config["start_from_state"]
    assert (
        "stopped by"
        in succeed(
            f"evaluate.py --run {tmp_path / 'run'} --question", "Tom has 3 boxes. How many?"
        ).stdout
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text())["n"] == 3
    succeed("train.py", "--resume", tmp_path / "run")


def test_the_first_loss_is_the_checkpoints(folder, tmp_path):
    """Training starts from the weights given: without a step's change the model is the checkpoint."""
    data = tmp_path / "mine.jsonl"
    data.write_text(
        "".join(
            json.dumps({"question": f"q {i}", "answer": f"a.\n#### {i}"}) + "\n" for i in range(9)
        )
    )
    succeed(
        f"train.py --init {folder} --mode direct --data {data} --max-steps 1 --learning-rate 1e-12 --device cpu --out-dir {tmp_path / 'run'}"
    )
    state = torch.load(tmp_path / "run" / "direct.best.pt", weights_only=True)["model"]
    for name, tensor in load_t5(folder).state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-9), name


def test_mistakes(folder, tmp_path):
    assert "--size has no effect with --init" in fail(f"train.py --init {folder} --size tiny")
    assert "config.json: cannot be read" in fail("train.py", "--init", tmp_path / "nowhere")
    (folder / "tokenizer.json").rename(tmp_path / "elsewhere.json")
    assert "only spiece.model" in fail(
        f"train.py --init {folder} --out-dir {tmp_path / 'run'}"
    )  # as in an mT5 folder
    arguments = [
        "--max-steps",
        1,
        "--train-problems",
        9,
        "--test-problems",
        3,
        "--out-dir",
        tmp_path / "run",
        "--device",
        "cpu",
    ]
    (tmp_path / "elsewhere.json").rename(folder / "tokenizer.json")
    succeed("train.py", "--init", folder, *arguments)
    small = EncoderDecoder(
        ModelConfig(
            vocab_size=50,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_decoder_layers=1,
            num_heads=2,
            start_from_state=False,
        )
    )
    save_t5(small, tmp_path / "small")
    (tmp_path / "small" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert "need more than the model's 50 ids" in fail(
        f"train.py --init {tmp_path / 'small'} --out-dir {tmp_path / 'run2'}"
    )
    (folder / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(InputError, match="not readable as safetensors"):
        load_t5(folder)
