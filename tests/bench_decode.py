"""Speed of writing chains on a CPU: `python tests/bench_decode.py --run RUN`, a trained usm.

The iterative loop on 256 test problems, greedy, all at once; the same loop on ``transformers``'
``generate`` with the same weights, all problems as one batch and one at a time, as the released code
does it. Theirs reads every context anew in every round. A block-causal model needs a mask in their
encoder, which they take. All three must write the same chains.
"""

import statistics

import torch
from bench import Report, alternate, arguments, in_transformers

from ases.decoding import Decoded, generate_chains
from ases.pairs import encode_question
from ases.run.folder import load_run, load_splits
from ases.segmentation import AS, ES


class Theirs:
    """Writes segments with ``transformers``: one batch, or one context at a time."""

    def __init__(self, writer, batched: bool):
        self.model = in_transformers(writer.models["usm"]).eval()
        if writer.models["usm"].config.start_from_state:
            self.model.decoder.register_forward_pre_hook(self.start_from_state, with_kwargs=True)
        self.tokenizer, self.max_tokens = writer.tokenizer, writer.settings.max_tokens
        self.block_causal = writer.settings.encoder == "block-causal"
        self.batched = batched

    @torch.inference_mode()
    def __call__(self, role, chains, contexts):
        parts = [contexts] if self.batched else [[context] for context in contexts]
        return [decoded for part in parts for decoded in self.write(part)]

    def start_from_state(self, decoder, arguments, named):
        """Add the state of each context's newest token to the first input, as ours does."""
        states = named["encoder_hidden_states"]
        if named["cache"].get_seq_length() == 0:
            newest = states[torch.arange(len(states)), self.lengths - 1]
            start = decoder.embed_tokens(named.pop("input_ids"))
            named["inputs_embeds"] = start + newest[:, None]
        return arguments, named

    def write(self, contexts):
        tokenizer = self.tokenizer
        self.lengths = torch.tensor([sum(map(len, context)) for context in contexts])
        S = int(self.lengths.max())
        ids = torch.full((len(contexts), S), tokenizer.pad_id)
        seen = torch.zeros(len(contexts), 1, S, S, dtype=torch.bool)
        for row, context in enumerate(contexts):
            source, end = [i for block in context for i in block], 0
            ids[row, : len(source)] = torch.tensor(source)
            for block in context:
                start, end = end, end + len(block)
                seen[row, 0, start:end, : end if self.block_causal else len(source)] = True
        seen[:, 0, :, 0] = True  # padding must see something
        options = dict(max_new_tokens=self.max_tokens, do_sample=False, num_beams=1)
        options |= dict(decoder_start_token_id=0, pad_token_id=tokenizer.pad_id)
        options |= dict(eos_token_id=[tokenizer.eos_id, tokenizer.end_id])
        options |= dict(attention_mask=(torch.arange(S) < self.lengths[:, None]).long())
        states = self.model.encoder(input_ids=ids, attention_mask=seen)
        written = self.model.generate(encoder_outputs=states, **options)
        return [self.finished(row[1:].tolist()) for row in written]

    def finished(self, ids):
        ends = {self.tokenizer.eos_id: "segment", self.tokenizer.end_id: "chain"}
        n = next((n for n, i in enumerate(ids) if i in ends), len(ids))
        return Decoded(ids[:n], ends[ids[n]] if n < len(ids) else "length")


def compare(report: Report, folder: str, n: int, rounds: int) -> None:
    writer = load_run(folder)
    splits, _ = load_splits(writer.settings)
    questions = [example.question for example in splits["test"][:n]]
    limit = writer.settings.max_question
    ids = [encode_question(q, writer.tokenizer, limit)[0] for q in questions]
    chains = {}

    def ours():
        chains["ours"] = writer.write(questions)
        return len(questions)

    def theirs(batched, few):
        write, most = Theirs(writer, batched), writer.settings.max_rounds

        def program():
            chains[batched] = generate_chains(write, ids[:few], writer.tokenizer, (ES, AS), most)
            return few

        return program

    programs = {"ours": ours, "transformers, batched": theirs(True, n)}
    programs["transformers, one at a time"] = theirs(False, n // 8)
    figures = alternate(programs, rounds)
    pairs = [zip(chains["ours"], chains[batched]) for batched in (True, False)]
    same = [statistics.mean(a.text == b.text for a, b in pair) for pair in pairs]
    stops = ", ".join(sorted({chain.stop for chain in chains["ours"]}))
    report.add("chains", figures, "chain", **{"the same chains": same, "stops": stops})


def main() -> None:
    options = arguments(__doc__, run="", problems=256, rounds=5)
    report = Report(options)
    compare(report, options.run, options.problems, options.rounds)
    report.write()


if __name__ == "__main__":
    main()
