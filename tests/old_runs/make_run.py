"""Makes a run folder of this version's format, a small one: python tests/old_runs/make_run.py

It stays here for good, so that later versions are tested to read it.
"""

import json
from pathlib import Path

from ases.recipe import train, training_texts
from ases.run.checkpoints import FORMAT, Recorder
from ases.run.evaluation import evaluate, write_evaluation
from ases.run.folder import Run, RunConfig, data_digest, load_splits
from ases.run.write import write_text
from ases.settings import Settings
from ases.tokenizer import Tokenizer

SHAPE = dict(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2)
SHAPE |= dict(relative_attention_num_buckets=8, relative_attention_max_distance=8)


def main() -> None:
    folder = Path(__file__).parent / f"format-{FORMAT}"
    folder.mkdir()
    path = folder / "data.jsonl"
    rows = [
        {"question": f"{a} and {b}?", "answer": f"So {a} and {b}. The answer is {a + b}."}
        for a in range(6)
        for b in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    splits, _ = load_splits(Settings(data=str(path)))
    tokenizer = Tokenizer.train(training_texts(splits), 260)
    settings = Settings(
        data=path.name,
        model=SHAPE | {"tie_word_embeddings": True},
        max_steps=400,
        validations=2,
        batch_tokens=512,
        vocab_size=260,
    )
    config = RunConfig(settings, data_digest=data_digest(splits), run_id="0123456789abcdef")
    config.save(folder)
    write_text(folder / "tokenizer.json", tokenizer.text())
    writer = train(splits, settings, Recorder(folder, False, config), tokenizer=tokenizer)
    results, predictions = evaluate(Run(folder, config, writer), splits["test"])
    write_evaluation(folder, results, predictions)


if __name__ == "__main__":
    main()
