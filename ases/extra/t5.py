"""Load and save T5 v1.0, T5 v1.1, Flan-T5 and mT5 checkpoints in Hugging Face's layout.

    model = load_t5("flan-t5-small")    # a folder with config.json and weights
    save_t5(model, "mine")              # a folder that transformers loads

``hf download`` fetches one, ``python -m ases.run.t5 export`` writes one from a run.
"""

import json
from bisect import bisect
from collections import Counter
from dataclasses import fields
from itertools import accumulate
from pathlib import Path
from typing import Self

import tokenizers
import torch
from torch import Tensor

from ases.data import InputError, check_regular
from ases.model import EncoderDecoder
from ases.settings import ModelConfig
from ases.tokenizer import EOS, PAD, Tokenizer

#: Fields that config.json and ModelConfig share by name.
_OURS = ["feed_forward", "tie_word_embeddings", "scale_decoder_outputs"]
_OURS += ["scale_scores", "start_from_state"]
_SHARED_FIELDS = [f.name for f in fields(ModelConfig) if f.name not in _OURS]
#: Defaults of fields that config.json may leave out.
_OPTIONAL: dict = dict(relative_attention_max_distance=128, relative_attention_num_buckets=32)
_OPTIONAL |= dict(layer_norm_epsilon=1e-6, dropout_rate=0.1, pad_token_id=0, eos_token_id=1)

_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_FIXED_NAMES = {
    "embedding.weight": "shared.weight",
    "head.weight": "lm_head.weight",
    "encoder_norm.weight": "encoder.final_layer_norm.weight",
    "decoder_norm.weight": "decoder.final_layer_norm.weight",
    "encoder_bias.table.weight": f"encoder.{_BIAS}",
    "decoder_bias.table.weight": f"decoder.{_BIAS}",
}
_PART_NAMES = {"self_attention": "SelfAttention.", "cross_attention": "EncDecAttention."}
_PART_NAMES |= {"feed_forward": "DenseReluDense."}


def load_t5(folder: str | Path) -> EncoderDecoder:
    """Load a T5-family model in eval mode; half-precision weights become float32.

    Raises InputError: a file is missing, damaged or of another kind; a tensor is missing,
    unexpected or has the wrong shape.
    """
    folder = Path(folder)
    settings = _read_config(folder / "config.json")
    path, state = _read_weights(folder)

    for stack in ("encoder", "decoder"):  # copies in some files
        name = f"{stack}.embed_tokens.weight"
        if name in state and _same(state[name], state.get("shared.weight")):
            state["shared.weight"] = state.pop(name)
    missed = settings.pop("untied") and "lm_head.weight" not in state
    tied = _same(state.get("lm_head.weight"), state.get("shared.weight")) and not missed
    if tied:
        state.pop("lm_head.weight", None)

    try:
        config = ModelConfig(**settings, tie_word_embeddings=tied)
        with torch.device("meta"):  # shapes only
            ours = EncoderDecoder(config, initialise=False).state_dict()
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    problems = _misfits(state, {_t5_name(name, config): tensor for name, tensor in ours.items()})
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(f"{path}: {'; '.join(problems[:6])}{more}")
    weights = {name: state[_t5_name(name, config)] for name in ours}
    return EncoderDecoder.with_weights(config, weights).eval()


def _same(tensor: Tensor | None, other: Tensor | None) -> bool:
    """Whether the tensors are equal; a missing one counts as equal."""
    return tensor is None or other is None or torch.equal(tensor, other)


def _misfits(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Why ``state`` cannot be loaded strictly, one string per problem."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is not expected" for name in state if name not in expected]
    for name, tensor in expected.items():
        if name in state and state[name].shape != tensor.shape:
            shape, wanted = tuple(state[name].shape), tuple(tensor.shape)
            problems.append(f"{name} is {shape}, expected {wanted}")
    odd = [(name, tensor.dtype) for name, tensor in state.items() if not tensor.is_floating_point()]
    return problems + [f"{name} is {dtype}, expected floating point" for name, dtype in odd]


def save_t5(model: EncoderDecoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` for transformers.

    T5 does not scale scores, so a model's factor 1/√K goes into its query weights.

    Raises InputError: the decoder starts from the encoder's state, which T5's cannot; safetensors
    is not installed; the folder cannot be written.
    """
    folder, config = Path(folder), model.config
    if config.start_from_state:
        message = "the model's decoder starts from the encoder's state, which T5's cannot"
        raise InputError(f"{folder}: {message}: train one with --encoder bidirectional")
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        if config.scale_scores and name.endswith(".q.weight"):
            tensor = tensor * config.d_kv**-0.5
        state[_t5_name(name, config)] = tensor.contiguous()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["shared.weight"].clone()

    content = {name: getattr(config, name) for name in _SHARED_FIELDS}
    content |= {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
    content |= {"is_encoder_decoder": True, "feed_forward_proj": config.feed_forward}
    scaled = config.scale_decoder_outputs  # of two names: see _read_config
    content |= {"tie_word_embeddings": scaled, "scale_decoder_outputs": scaled}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        need_safetensors().save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _t5_name(name: str, config: ModelConfig) -> str:
    """Our parameter name → T5's."""
    if name in _FIXED_NAMES:
        return _FIXED_NAMES[name]
    stack, block, part, *rest = name.split(".")
    layers = {"self": 0, "cross": 1, "ff": 2 if stack == "decoder" else 1}
    layer = layers[part.replace("feed_forward", "ff").replace("norm_", "").split("_")[0]]
    up = "wi_1" if config.feed_forward == "gated-gelu" else "wi"
    matrices = {"gate": "wi_0", "up": up, "down": "wo"}
    inner = _PART_NAMES.get(part, "layer_norm.") + ".".join(matrices.get(r, r) for r in rest)
    return f"{stack}.block.{block}.layer.{layer}.{inner}"


# --- reading -------------------------------------------------------------------------------------
def _read_config(path: Path) -> dict:
    """ModelConfig's arguments from a config.json; the weights decide tie_word_embeddings."""
    wanted = "expected a T5-family model's"
    check_regular(path, "a T5-family model's config")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {wanted} folder") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({str(error)[:100]}); {wanted} config") from None

    family = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if family not in ("t5", "mt5"):
        raise InputError(f"{path}: model_type is {family!r}; expected 't5' or 'mt5'")
    given = {name: config[name] for name in _SHARED_FIELDS if config.get(name) is not None}
    settings = _OPTIONAL | given
    settings.setdefault("num_decoder_layers", settings.get("num_layers"))
    settings.setdefault("decoder_start_token_id", settings["pad_token_id"])
    missing = [name for name in _SHARED_FIELDS if settings.get(name) is None]
    if missing:
        raise InputError(f"{path}: {', '.join(missing)} missing; expected a number for each")

    # Don't confuse two facts. Whether the head *is* the embedding shows in the stored weights.
    # Whether the decoder's output is scaled by D^−0.5 before the head is a setting, on in v1.0:
    # tie_word_embeddings in older configs, scale_decoder_outputs in newer ones.
    settings["untied"] = config.get("tie_word_embeddings", family == "t5") is False
    scaled = config.get("scale_decoder_outputs", not settings["untied"])
    settings["feed_forward"] = config.get("feed_forward_proj", "relu")
    gelu = settings["feed_forward"] == "gated-gelu"
    known = ("gelu_new", "gelu_pytorch_tanh") if gelu else ("relu",)
    function = config.get("dense_act_fn", known[0])  # only newer configs have it
    if function not in known:
        raise InputError(f"{path}: dense_act_fn is {function!r}; expected {' or '.join(known)}")
    settings["scale_decoder_outputs"] = family == "t5" and bool(scaled)
    settings["scale_scores"] = settings["start_from_state"] = False
    return settings


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file, for error messages, and all tensors by name; safetensors is preferred to .bin."""
    kinds = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    path = next((folder / name for name in kinds if (folder / name).exists()), None)
    if path is None:
        wanted = "model.safetensors, model.safetensors.index.json with its shards"
        raise InputError(f"{folder}: no weights; expected {wanted}, or pytorch_model.bin")
    check_regular(path, "weights")
    if path.suffix == ".bin":
        return path, _read_pickle(path)
    shards = _shards(path) if path.name.endswith(".index.json") else [path]

    load_file = need_safetensors().load_file
    state = {}
    for shard in shards:
        check_regular(shard, "weights")
        try:
            state |= load_file(shard)
        except Exception as error:  # the library's own type, or OSError
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{shard}: not readable as safetensors ({reason})") from None
    return path, state


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a bad file
        raise InputError(f"{path}: not a readable state dict ({type(error).__name__})") from None
    items = state.items() if isinstance(state, dict) else ()
    if not items or not all(isinstance(n, str) and isinstance(t, Tensor) for n, t in items):
        raise InputError(f"{path}: not a state dict; expected tensors by name")
    return state


def _shards(index: Path) -> list[Path]:
    """The shards that an index names, all in its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):  # no path out of the folder
            raise ValueError("a shard lies elsewhere")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        reason = "not an index of shards; expected a weight_map of file names"
        raise InputError(f"{index}: {reason}") from None
    return [index.parent / name for name in names]


def need_safetensors():
    """Import ``safetensors.torch``. Raises InputError: it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        message = "safetensors is not installed; expected it for model.safetensors"
        raise InputError(f"{message}: pip install safetensors") from None
    return safetensors.torch


# --- the tokenizer -------------------------------------------------------------------------------
class T5Tokenizer(Tokenizer):
    """A T5-family tokenizer; its end-of-chain token is the sentinel <extra_id_0>.

    It loses some characters (T5's drops newlines and has no "<"): see ``lost_characters``.
    """

    rows: int | None = None  # of the checkpoint's embedding: mT5's tokenizer has more ids

    def __init__(self, backend: tokenizers.Tokenizer):
        of_mt5 = backend.token_to_id("▁<extra_id_0>") is not None  # its sentinels start with ▁
        self.SPECIALS = (PAD, EOS, "▁<extra_id_0>" if of_mt5 else "<extra_id_0>")
        super().__init__(backend)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        if not Path(path).exists():
            hint = "if there is only spiece.model, as for mT5, convert it first"
            raise InputError(f"{path}: no tokenizer.json; {hint}")
        return super().load(path)

    def set_rows(self, rows: int, path: Path) -> None:
        """Set the embedding's row count. Raises InputError: too few for the special ids."""
        if max(self.special_ids) >= rows:
            raise InputError(f"{path}: its special tokens need more than the model's {rows} ids")
        self.rows = rows

    def _encode(self, text: str) -> tokenizers.Encoding:
        encoding = self.backend.encode(text, add_special_tokens=False)
        if self.rows is not None and max(encoding.ids, default=0) >= self.rows:
            token = self.backend.id_to_token(max(encoding.ids))
            message = f"token {token!r} in {text[:80]!r} has the id {max(encoding.ids)}"
            raise InputError(f"{message}; the checkpoint's embedding has {self.rows} rows")
        return encoding

    def encode(self, text: str) -> list[int]:
        return self._encode(text).ids

    def encode_pieces(self, pieces: list[str]) -> list[list[int]]:
        # Encode the whole chain: on its own, each piece would get a leading blank.
        # A token belongs to the piece of its first non-blank character.
        chain = "".join(pieces)
        encoding = self._encode(chain)
        ends = list(accumulate(len(piece) for piece in pieces))
        ids: list[list[int]] = [[] for _ in pieces]
        for token, (start, stop) in zip(encoding.ids, encoding.offsets):
            blanks = len(chain[start:stop]) - len(chain[start:stop].lstrip())
            word = start + blanks if start + blanks < stop else start
            ids[min(bisect(ends, word), len(ids) - 1)].append(token)
        return ids


def lost_characters(tokenizer: Tokenizer, texts: list[str]) -> tuple[float, str]:
    """Share of characters that encoding loses, and which; of whitespace, only newlines count."""
    counts = Counter(c for text in texts for c in text if c == "\n" or not c.isspace())
    lost = [c for c in counts if c not in tokenizer.decode(tokenizer.encode(f"a {c} a"))]
    share = sum(counts[c] for c in lost) / max(1, counts.total())
    return share, "".join(sorted(lost, key=lambda c: -counts[c]))
