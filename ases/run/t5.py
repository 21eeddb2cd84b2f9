"""Download or export T5-family checkpoints:

    python -m ases.run.t5 download google/flan-t5-small flan-t5-small
    python -m ases.run.t5 export runs/mwp-usm-bidirectional mine

transformers loads an exported folder's weights, config and tokenizer. A run of two models gives
two subfolders. Ignore the warning of transformers 5 that head and embedding are not tied: it warns
of Flan's own checkpoints, too.
"""

import fnmatch
import json
from pathlib import Path

from ases.data import InputError
from ases.run.cli import Parser, run_command
from ases.run.progress import tell
from ases.run.write import check_new, check_place, write_text


def export(run: Path, folder: Path) -> list[Path]:
    """Write the models of a run as T5 folders; returns their paths.

    T5 encodes bidirectionally: only a model trained that way gives the same output there.
    """
    from ases.extra.t5 import need_safetensors, save_t5
    from ases.run.folder import load_run

    check_new(folder)
    check_place(folder / "config.json")
    need_safetensors()
    writer = load_run(run)
    places = []
    for name, model in writer.models.items():
        place = folder / name if len(writer.models) > 1 else folder
        save_t5(model, place)
        tokenizer = writer.tokenizer
        write_text(place / "tokenizer.json", tokenizer.text())
        pad, eos, end = tokenizer.SPECIALS
        known = tokenizer.backend.token_to_id("<unk>") is not None
        unknown = "<unk>" if known else pad  # a byte-level tokenizer never needs it
        tokens: dict = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": pad}
        tokens |= {"eos_token": eos, "unk_token": unknown, "additional_special_tokens": [end]}
        generation: dict = {"eos_token_id": [tokenizer.eos_id, tokenizer.end_id]}
        generation |= {"max_new_tokens": writer.settings.max_tokens}
        for field in ("decoder_start_token_id", "pad_token_id"):
            generation[field] = getattr(model.config, field)
        for kind, facts in (("tokenizer", tokens), ("generation", generation)):
            write_text(place / f"{kind}_config.json", json.dumps(facts, indent=2) + "\n")
        places.append(place)
    return places


def fetch(name: str, folder: Path) -> None:
    """Fetch a checkpoint from the hub; huggingface_hub is installed with tokenizers."""
    from huggingface_hub import HfApi, hf_hub_download

    check_new(folder)
    try:
        offered = HfApi().list_repo_files(name)
        weights = fnmatch.filter(offered, "model*.safetensors*")
        tokenizers = [f for f in ("tokenizer.json", "spiece.model") if f in offered]
        for file in ["config.json", *tokenizers, *(sorted(weights) or ["pytorch_model.bin"])]:
            hf_hub_download(name, file, local_dir=folder)
    except Exception as error:  # network, names, permissions: each has its own class
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: cannot be downloaded ({reason})") from None


def main() -> None:
    parser = Parser(
        prog="python -m ases.run.t5", description="Download a T5-family checkpoint, or make one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    download = commands.add_parser("download", help="fetch a checkpoint from the hub")
    download.add_argument("name", help="for example google/flan-t5-small")
    download.add_argument("folder", type=Path, help="a new folder for it")
    exported = commands.add_parser("export", help="write a run's models as transformers loads them")
    exported.add_argument("run", type=Path, help="folder that train.py wrote")
    exported.add_argument("folder", type=Path, help="a new folder for it")
    options = parser.parse_args()
    if options.command == "download":
        fetch(options.name, options.folder)
    exports = options.command == "export"
    for place in export(options.run, options.folder) if exports else [options.folder]:
        tell(f"written: {place}")


if __name__ == "__main__":
    run_command(main)
