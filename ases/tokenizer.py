"""Text to token ids and back: a byte-level BPE that is exact for any string.

The tokenizer is trained on the training split only. Each digit is a token of its own, and a blank
before a number goes with its first digit: models this small do not learn arithmetic on "128" as one
symbol. Pieces are encoded one by one, so every token of a chain belongs to exactly one piece, which
is what the entropy of a piece needs.
"""

from collections import Counter
from itertools import accumulate
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ases.data import InputError

PAD, EOS, END = "<pad>", "</s>", "<end>"


class Tokenizer:
    """A BPE vocabulary with three special ids.

    ``pad_id`` fills batches and starts the decoder; ``eos_id`` ends every part of a context and
    every target; ``end_id`` is the end-of-chain token, written once, after the last segment.
    Special tokens are ids only: the text "<end>" in a question is encoded like any other text.
    """

    SPECIALS = (PAD, EOS, END)

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.encode_special_tokens = True  # never read special tokens out of a text
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.pad_id, self.eos_id, self.end_id = (backend.token_to_id(t) for t in self.SPECIALS)
        self.special_ids = {self.pad_id, self.eos_id, self.end_id}

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> "Tokenizer":
        """Learn merges from ``texts``, for at most ``vocab_size`` ids; 259 are always there.

        Raises:
            ValueError: one text in place of a list of them.
        """
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, not one text")
        backend = tokenizers.Tokenizer(models.BPE())
        digits = pre_tokenizers.Split(tokenizers.Regex(r" ?\p{N}"), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, EOS, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a ``tokenizer.json``: one of ours, or a T5-family one, which has sentinels in place
        of <end>.

        Raises:
            InputError: the file is missing, is no tokenizer, or lacks one of the special tokens.
        """
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception for every kind of failure
            reason = str(error).splitlines()[0]
            message = f"{path}: not a readable tokenizer ({reason}); expected a tokenizer.json"
            if not Path(path).exists():
                message += "; if there is only spiece.model, as for mT5, convert it first"
            raise InputError(message) from None
        tokenizer = (SentinelTokenizer if backend.token_to_id(END) is None else cls)(backend)
        missing = [token for token in tokenizer.SPECIALS if backend.token_to_id(token) is None]
        if missing:
            told = "expected a tokenizer of this project or of the T5 family"
            raise InputError(f"{path}: no token {missing[0]!r}; {told}")
        return tokenizer

    def text(self) -> str:
        """The content of a ``tokenizer.json``."""
        return self.backend.to_str(pretty=True)

    def save(self, path: str | Path) -> None:
        """Write a ``tokenizer.json``."""
        Path(path).write_text(self.text(), encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without special ones."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """Ids of each piece on its own; joined, they decode to the pieces joined."""
        return [
            encoding.ids for encoding in self.backend.encode_batch(pieces, add_special_tokens=False)
        ]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Text of ``ids``, without the special ones or with them; bytes that are no UTF-8 become
        U+FFFD.

        >>> tokenizer = Tokenizer.train(["Tom eats 2."], 259)
        >>> tokenizer.decode([*tokenizer.encode("He eats 2,"), 1], skip_special_tokens=False)
        'He eats 2,</s>'
        """
        if skip_special_tokens:
            ids = [i for i in ids if i not in self.special_ids]
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)


class SentinelTokenizer(Tokenizer):
    """A T5-family tokenizer: one of its unused sentinels is the end-of-chain token.

    It need not write every character (T5's drops newlines and has no "<"): see ``lost_characters``.
    A chain is encoded as a whole, for encoded alone every piece would get a blank before its first
    word. A token then belongs to the piece of its first character that is not blank: "▁He" is a
    word of the piece that "He" stands in, though its blank may be the newline that ends the piece
    before.

    ``rows`` is how many ids the checkpoint's embedding has: mT5's converted tokenizer has more.
    """

    rows: int | None = None

    def __init__(self, backend: tokenizers.Tokenizer):
        of_mt5 = backend.token_to_id("▁<extra_id_0>") is not None  # its names have blanks
        self.SPECIALS = (PAD, EOS, "▁<extra_id_0>" if of_mt5 else "<extra_id_0>")
        super().__init__(backend)

    def _encode(self, text: str) -> tokenizers.Encoding:
        encoding = self.backend.encode(text, add_special_tokens=False)
        if self.rows is not None and max(encoding.ids, default=0) >= self.rows:
            token = self.backend.id_to_token(max(encoding.ids))
            told = f"token {token!r} in {text[:80]!r} has the id {max(encoding.ids)}"
            raise InputError(f"{told}; the checkpoint's embedding has {self.rows} rows")
        return encoding

    def encode(self, text: str) -> list[int]:
        return self._encode(text).ids

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        chain = "".join(pieces)
        encoding = self._encode(chain)
        ends = list(accumulate(len(piece) for piece in pieces))

        ids: list[list[int]] = [[] for _ in pieces]
        piece = 0
        for token, (start, stop) in zip(encoding.ids, encoding.offsets):
            blanks = len(chain[start:stop]) - len(chain[start:stop].lstrip())
            word = start + blanks if start + blanks < stop else start
            while piece + 1 < len(pieces) and word >= ends[piece]:
                piece += 1
            ids[piece].append(token)
        return ids


def lost_characters(tokenizer: Tokenizer, texts: list[str]) -> tuple[float, str]:
    """Share of the characters that do not survive encoding, and which ones.

    Of blanks only newlines are counted.
    """
    counts = Counter(c for text in texts for c in text if c == "\n" or not c.isspace())
    lost = {c for c in counts if c not in tokenizer.decode(tokenizer.encode(f"a {c} a"))}
    total = counts.total()
    share = sum(counts[c] for c in lost) / total if total else 0.0
    return share, "".join(sorted(lost, key=lambda c: -counts[c]))
