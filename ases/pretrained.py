"""T5-family checkpoints, in and out: T5 v1.0, T5 v1.1, Flan-T5 and mT5 in the layout of Hugging Face.

    model = load_t5("flan-t5-small")        # a folder: config.json, model.safetensors or pytorch_model.bin
    save_t5(model, "mine")                  # a folder that transformers loads
    python -m ases.pretrained google/flan-t5-small --out flan-t5-small      # downloads one

Two facts of the family are easily confused. Whether the output head *is* the embedding is seen from what is stored;
whether the decoder's output is multiplied by D^−0.5 before the head is a setting: v1.0 does, v1.1, Flan and mT5 do
not. Older configs tell it by ``tie_word_embeddings``, newer ones by ``scale_decoder_outputs``.
"""

import argparse
import json
import math
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from ases.data import InputError
from ases.model import EncoderDecoder, ModelConfig

#: Fields that config.json and ModelConfig share by name.
_SHARED_FIELDS = [f.name for f in fields(ModelConfig) if f.name not in ("feed_forward", "tie_word_embeddings", "scale_decoder_outputs", "scale_scores")]
_OPTIONAL = {"relative_attention_max_distance": 128, "relative_attention_num_buckets": 32, "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, "pad_token_id": 0, "eos_token_id": 1}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of shared.weight, where a file has them


def load_t5(folder: str | Path) -> EncoderDecoder:
    """Read a T5-family model, ready for inference; half-precision weights become float32.

    Raises:
        InputError: a missing, damaged or foreign file; tensors that are missing, surplus or of another shape, named.
    """
    folder = Path(folder)
    settings = _read_config(folder / "config.json")
    path, state = _read_weights(folder)
    for name in _COPIES:
        if name in state and ("shared.weight" not in state or torch.equal(state[name], state["shared.weight"])):
            state["shared.weight"] = state.pop(name)
    tied = "lm_head.weight" not in state or ("shared.weight" in state and torch.equal(state["lm_head.weight"], state["shared.weight"]))
    if tied:
        state.pop("lm_head.weight", None)
    try:
        model = EncoderDecoder(ModelConfig(**settings, tie_word_embeddings=tied))
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from None
    own = model.state_dict()
    names = {_t5_name(name, model.config): name for name in own}
    problems = [f"{name} is missing" for name in names if name not in state] + [f"{name} is not expected" for name in state if name not in names]
    problems += [f"{t5} is {tuple(state[t5].shape)}, expected {tuple(own[name].shape)}" for t5, name in names.items() if t5 in state and state[t5].shape != own[name].shape]
    problems += [f"{name} is {tensor.dtype}, expected floating point" for name, tensor in state.items() if not tensor.is_floating_point()]
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise InputError(f"{path}: {'; '.join(problems[:6])}{more}")
    model.load_state_dict({name: state[t5].float() for t5, name in names.items()})
    return model.eval()


def save_t5(model: EncoderDecoder, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` (needs the package safetensors) so that transformers loads them.

    A model whose scores are scaled by 1/√K is written with that factor in its queries' weights: T5 has none.

    Raises:
        InputError: safetensors is not installed; the folder cannot be written.
    """
    folder, config = Path(folder), model.config
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu()
        if config.scale_scores and name.endswith(".q.weight"):
            tensor = tensor * config.d_kv**-0.5
        state[_t5_name(name, config)] = tensor.contiguous()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["shared.weight"].clone()
    content = {name: getattr(config, name) for name in _SHARED_FIELDS}
    content |= {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True, "feed_forward_proj": config.feed_forward,
                "tie_word_embeddings": config.scale_decoder_outputs, "scale_decoder_outputs": config.scale_decoder_outputs}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _safetensors().save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _t5_name(name: str, config: ModelConfig) -> str:
    """Our name of a parameter → T5's."""
    fixed = {
        "embedding.weight": "shared.weight", "head.weight": "lm_head.weight", "encoder_norm.weight": "encoder.final_layer_norm.weight", "decoder_norm.weight": "decoder.final_layer_norm.weight",
        "encoder_bias.table.weight": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "decoder_bias.table.weight": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    }
    if name in fixed:
        return fixed[name]
    stack, block, part, *rest = name.split(".")
    last = 2 if stack == "decoder" else 1
    layer = {"norm_self": 0, "self_attention": 0, "norm_cross": 1, "cross_attention": 1, "norm_ff": last, "feed_forward": last}[part]
    inner = {"self_attention": "SelfAttention.", "cross_attention": "EncDecAttention.", "feed_forward": "DenseReluDense."}.get(part, "layer_norm.")
    feed_forward = {"gate": "wi_0", "up": "wi_1" if config.feed_forward == "gated-gelu" else "wi", "down": "wo"}
    return f"{stack}.block.{block}.layer.{layer}.{inner}{'.'.join(feed_forward.get(r, r) for r in rest)}"


# --- reading -------------------------------------------------------------------------------------------------


def _read_config(path: Path) -> dict:
    """ModelConfig's arguments from a config.json, but for the tying that the weights decide."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a T5-family model's folder") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); expected a T5-family model's config") from None
    if not isinstance(config, dict) or config.get("model_type") not in ("t5", "mt5"):
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{path}: model_type is {found!r}; expected 't5' or 'mt5'")
    settings = _OPTIONAL | {name: config[name] for name in _SHARED_FIELDS if config.get(name) is not None}
    settings.setdefault("num_decoder_layers", settings.get("num_layers"))
    settings.setdefault("decoder_start_token_id", settings["pad_token_id"])
    if missing := [name for name in _SHARED_FIELDS if settings.get(name) is None]:
        raise InputError(f"{path}: {', '.join(missing)} missing; expected a number for each")
    if wrong := [name for name in _SHARED_FIELDS if isinstance(settings[name], bool) or not isinstance(settings[name], int | float) or not math.isfinite(settings[name])]:
        raise InputError(f"{path}: {wrong[0]} is {settings[wrong[0]]!r}; expected a number")
    if whole := [name for name in _SHARED_FIELDS if name not in ("layer_norm_epsilon", "dropout_rate") and not isinstance(settings[name], int)]:
        raise InputError(f"{path}: {whole[0]} is {settings[whole[0]]!r}; expected a whole number")
    scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings") is not False)
    return settings | {"feed_forward": config.get("feed_forward_proj", "relu"), "scale_decoder_outputs": config["model_type"] == "t5" and bool(scaled), "scale_scores": False}


def _read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors by name, and the file to name in complaints."""
    found = [folder / name for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin") if (folder / name).exists()]
    if not found:
        raise InputError(f"{folder}: no weights; expected model.safetensors, model.safetensors.index.json with its shards, or pytorch_model.bin")
    if len(found) > 1:
        raise InputError(f"{folder}: holds both {found[0].name} and {found[1].name}; expected one, so that it is clear which counts")
    path = found[0]
    if path.suffix == ".bin":
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged or foreign file
            raise InputError(f"{path}: not a readable state dict ({type(error).__name__})") from None
        if not isinstance(state, dict) or not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            raise InputError(f"{path}: not a state dict; expected tensors by name")
        return path, state
    shards = [path]
    if path.name.endswith(".index.json"):
        try:
            names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            shards = [folder / name for name in sorted(names) if Path(name).name == name]  # no way out of the folder
            assert len(shards) == len(names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            raise InputError(f"{path}: not an index of shards; expected a weight_map of file names") from None
    state = {}
    for shard in shards:
        try:
            state |= _safetensors().load_file(shard)
        except InputError:
            raise
        except Exception as error:  # the library has an exception of its own, and the file may be missing
            raise InputError(f"{shard}: not readable as safetensors ({' '.join(str(error).split())[:120]})") from None
    return path, state


def _safetensors():
    try:
        import safetensors.torch
    except ImportError:
        raise InputError("safetensors is not installed; expected it for model.safetensors: pip install safetensors") from None
    return safetensors.torch


# --- downloading ---------------------------------------------------------------------------------------------


def download(name: str, folder: str | Path) -> None:
    """Fetch a checkpoint by its name on the hub (huggingface_hub comes with tokenizers; HF_ENDPOINT is honoured).

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import HfApi, hf_hub_download

    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty; expected a new folder")
    try:
        offered = set(HfApi().list_repo_files(name))
        weights = [f for f in offered if f.startswith("model") and f.endswith((".safetensors", ".safetensors.index.json")) and "/" not in f] or ["pytorch_model.bin"]
        wanted = ["config.json", *(f for f in ("tokenizer.json", "spiece.model") if f in offered), *sorted(weights)]
        for file in wanted:
            hf_hub_download(name, file, local_dir=folder)
    except Exception as error:  # network, names, permissions: the library has a class for each
        raise InputError(f"{name}: cannot be downloaded ({' '.join(str(error).split())[:200]})") from None


def main() -> None:
    parser = argparse.ArgumentParser(description="Download a T5-family checkpoint from the Hugging Face hub.")
    parser.add_argument("name", help="for example google/flan-t5-small")
    parser.add_argument("--out", required=True, help="a new folder for it")
    args = parser.parse_args()
    download(args.name, args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    from ases.cli import run_command

    run_command(main)
