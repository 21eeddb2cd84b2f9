"""Byte-level BPE that round-trips any string exactly.

Each digit is a token of its own, with the space before it: models this small do not learn
arithmetic if "128" is one token. Pieces are encoded one by one, so each token belongs to exactly
one piece. Piece entropies need this.
"""

from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from ases.data import InputError, check_regular

PAD, EOS, END = "<pad>", "</s>", "<end>"


class Tokenizer:
    """A BPE vocabulary with three special ids.

    ``pad_id`` fills batches and starts the decoder. ``eos_id`` ends every context block and every
    target. ``end_id``, the end-of-chain token, appears once, after the last segment.
    """

    SPECIALS = (PAD, EOS, END)

    def __init__(self, backend: tokenizers.Tokenizer):
        backend.encode_special_tokens = True  # "<end>" in a question is plain text
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self.pad_id, self.eos_id, self.end_id = (backend.token_to_id(t) for t in self.SPECIALS)
        self.special_ids = {self.pad_id, self.eos_id, self.end_id}

    @classmethod
    def train(cls, texts: list[str], vocab_size: int) -> Self:
        """Learn merges from ``texts``, up to ``vocab_size`` ids; 259 are fixed."""
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, not one text")
        backend = tokenizers.Tokenizer(models.BPE())
        digits = pre_tokenizers.Split(tokenizers.Regex(r" ?\p{N}"), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(cls.SPECIALS),
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ``tokenizer.json``.

        Raises InputError: the file is missing or damaged, or lacks a special token.
        """
        check_regular(Path(path), "a tokenizer.json")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception on any failure
            reason = str(error).splitlines()[0]
            raise InputError(f"{path}: not a readable tokenizer.json ({reason})") from None
        tokenizer = cls(backend)
        if None in tokenizer.special_ids:
            raise InputError(f"{path}: lacks one of the tokens {', '.join(tokenizer.SPECIALS)}")
        return tokenizer

    def text(self) -> str:
        """Contents of a ``tokenizer.json``."""
        return self.backend.to_str(pretty=True)

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without special tokens."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        """Ids of each piece, encoded separately; concatenated, they decode to the whole text."""
        return [e.ids for e in self.backend.encode_batch(pieces, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Text of ``ids``, without special tokens; invalid UTF-8 becomes U+FFFD."""
        return self.backend.decode([i for i in ids if i not in self.special_ids])
