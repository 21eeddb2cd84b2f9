"""Speed of labels by entropy on a CPU: `python tests/bench_entropy.py` (`--data chains.jsonl`).

Token entropies of the answers under a direct model: ours, one pass for each answer in batches of
like length; ``transformers`` with the same weights, one teacher-forced pass for each answer in
batches of 24 as they come; and the released code's procedure, each piece on its own, everything
padded to 512, in batches of 24. Theirs compute the entropies with our formula.
"""

import torch
from bench import Report, alternate, arguments, examples, in_transformers

from ases.entropy import chain_entropies, token_entropies
from ases.model import EncoderDecoder
from ases.pairs import pad_rows
from ases.segmentation import split_pieces
from ases.settings import SIZES, ModelConfig
from ases.tokenizer import Tokenizer


def main() -> None:
    options = arguments(__doc__, data="", task="mwp", size="tiny", problems=1000, rounds=5)
    report = Report(options)
    chosen = examples(options.task, options.data, options.problems)["train"]
    texts = [text for e in chosen for text in (e.question, e.answer)]
    tokenizer = Tokenizer.train(texts, 4096)
    torch.manual_seed(0)
    model = EncoderDecoder(
        ModelConfig(vocab_size=tokenizer.vocab_size, start_from_state=False, **SIZES[options.size])
    )
    model.eval()
    theirs = in_transformers(model).eval()
    questions = [e.question for e in chosen]
    pieces = [split_pieces(e.answer) for e in chosen]
    found = {}

    def ours():
        values = chain_entropies(model, tokenizer, questions, pieces)
        found["ours"] = [[h for piece in chain for h in piece] for chain in values]
        return len(chosen)

    def encoded(n):
        """Sources, and the ids of each piece, of the first ``n`` examples."""
        sources = [[*tokenizer.encode(q), tokenizer.eos_id] for q in questions[:n]]
        return zip(sources, [tokenizer.encode_pieces(p) for p in pieces[:n]])

    @torch.inference_mode()
    def scored(jobs, width=None):
        """Entropies of (source, target) pairs, in batches of 24, padded to the longest or to 512."""
        values = []
        for start in range(0, len(jobs), 24):
            batch = jobs[start : start + 24]
            fill = [] if width is None else [[0] * width]
            rows = len(batch)
            source = pad_rows([s for s, _ in batch] + fill, 0)[:rows]
            labels = pad_rows([t for _, t in batch] + fill, -100)[:rows]
            lengths = torch.tensor([len(s) for s, _ in batch])
            mask = (torch.arange(source.shape[1]) < lengths[:, None]).long()
            logits = theirs(input_ids=source, attention_mask=mask, labels=labels).logits
            entropies = token_entropies(logits).tolist()
            values += [row[: len(t)] for row, (_, t) in zip(entropies, batch)]
        return values

    def one_pass():
        jobs = [(s, [i for ids in t for i in ids]) for s, t in encoded(len(chosen))]
        found["one pass"] = scored(jobs)
        return len(chosen)

    def released():
        few = max(1, len(chosen) // 20)  # it is slow
        jobs = [(s, ids) for s, t in encoded(few) for ids in t]
        scored(jobs, 512)
        return few

    programs = {"ours": ours, "transformers, one pass": one_pass, "as released": released}
    figures = alternate(programs, options.rounds)
    worst = max(
        abs(a - b)
        for mine, other in zip(found["ours"], found["one pass"])
        for a, b in zip(mine, other, strict=True)
    )
    report.add(f"entropies, {options.size}", figures, "answer", **{"largest difference": worst})
    report.write()


if __name__ == "__main__":
    main()
