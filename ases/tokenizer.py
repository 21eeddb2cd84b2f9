"""Text to token ids and back: a byte-level BPE that is exact for any string.

The tokenizer is trained on the training split only. Each digit is a token of its own, a blank before a number going
with its first digit (models this small do not learn arithmetic on "128" as one symbol). Pieces are encoded one by one, so no token ever straddles two pieces: every
token of a chain belongs to exactly one piece, which is what the entropy of a piece needs.
"""

from collections import Counter
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ases.data import InputError

PAD, EOS, END, SEP = "<pad>", "</s>", "<end>", "<sep>"


class Tokenizer:
    """A BPE vocabulary with four special ids.

    ``pad_id`` fills batches and starts the decoder; ``eos_id`` ends every source and target; ``end_id`` is the
    end-of-chain token, written once, after the last segment; ``sep_id`` stands before each earlier segment in a
    context. Special tokens are ids only: the text "<end>" in a question is encoded like any other text.
    """

    SPECIALS = (PAD, EOS, END, SEP)

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.encode_special_tokens = True  # never read special tokens out of a text
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.pad_id, self.eos_id, self.end_id, self.sep_id = (backend.token_to_id(t) for t in self.SPECIALS)
        self.special_ids = {self.pad_id, self.eos_id, self.end_id, self.sep_id}

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> "Tokenizer":
        """Learn the merges from ``texts``; the vocabulary has at most ``vocab_size`` ids, 260 at the least."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(tokenizers.Regex(r" ?\p{N}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[PAD, EOS, END, SEP], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a ``tokenizer.json``: one of ours, or a T5-family one, which has sentinels in place of <end> and <sep>.

        Raises:
            InputError: the file is missing, is no tokenizer, or lacks one of the special tokens.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for every kind of failure
            hint = "; an mT5 folder may hold only spiece.model, which cannot be read here: pass --tokenizer" if not Path(path).exists() else ""
            raise InputError(f"{path}: not a readable tokenizer ({str(error).splitlines()[0]}); expected a tokenizer.json{hint}") from None
        names = cls.SPECIALS if backend.token_to_id(END) is not None else SentinelTokenizer.SPECIALS
        if missing := [t for t in names if backend.token_to_id(t) is None]:
            raise InputError(f"{path}: no token {missing[0]!r}; expected a tokenizer of this project or of the T5 family")
        return cls(backend) if names[2] == END else SentinelTokenizer(backend)

    def save(self, path: str | Path) -> None:
        self.backend.save(str(path))

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """Ids of each piece on its own; joined, they decode to the pieces joined."""
        return [encoding.ids for encoding in self.backend.encode_batch(pieces, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids`` without the special ones; bytes that are no UTF-8 become U+FFFD."""
        return self.backend.decode([i for i in ids if i not in self.special_ids], skip_special_tokens=True)


class SentinelTokenizer(Tokenizer):
    """A T5-family tokenizer: two of its unused sentinels are the end-of-chain token and the separator.

    It need not write every character (T5's drops newlines and has no "<"): see ``lost_characters``. A chain is
    encoded as a whole and its tokens are dealt to the pieces they begin in, for encoded alone every piece would get
    a blank before its first word.
    """

    SPECIALS = (PAD, EOS, "<extra_id_0>", "<extra_id_1>")

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        encoding = self.backend.encode("".join(pieces), add_special_tokens=False)
        ids: list[list[int]] = [[] for _ in pieces]
        piece, end = 0, len(pieces[0]) if pieces else 0
        for i, (start, stop) in zip(encoding.ids, encoding.offsets):
            while piece + 1 < len(pieces) and start >= end:
                piece += 1
                end += len(pieces[piece])
            ids[piece].append(i)
        return ids


def lost_characters(tokenizer: Tokenizer, texts: list[str]) -> tuple[float, str]:
    """Share of the texts' characters, blanks not counted but newlines, that do not survive encoding; and which ones."""
    counts = Counter(c for text in texts for c in text if c == "\n" or not c.isspace())
    lost = {c for c in counts if c not in tokenizer.decode(tokenizer.encode(f"a {c} a"))}
    total = sum(counts.values())
    return (sum(counts[c] for c in lost) / total if total else 0.0), "".join(sorted(lost, key=lambda c: -counts[c]))
