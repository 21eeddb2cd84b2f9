"""Export a run as a T5 checkpoint: `python -m ases.run.t5 export RUN FOLDER`.

transformers loads the folder's weights, config and tokenizer. A run of two models gives two
subfolders. Ignore the warning of transformers 5 that head and embedding are not tied: it warns of
Flan's own checkpoints, too.
"""

import json
from pathlib import Path

from ases.run.cli import Parser, run_command
from ases.run.process import check_alone
from ases.run.progress import print_line
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


def main() -> None:
    about = "Write a run's models as transformers loads them."
    parser = Parser(prog="python -m ases.run.t5", description=about)
    parser.add_argument("export", choices=["export"])
    parser.add_argument("run", type=Path, help="folder that train.py wrote")
    parser.add_argument("folder", type=Path, help="a new folder")
    options = parser.parse_args()
    check_alone()
    for place in export(options.run, options.folder):
        print_line(f"written: {place}")


if __name__ == "__main__":
    run_command(main)
