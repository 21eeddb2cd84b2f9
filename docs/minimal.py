"""AS-ES learning on one page: `python docs/minimal.py` trains for 100 seconds on one core.

AS-ES learning (Xi et al., Findings of ACL 2024) trains a small model to reason step by step:

    1. cut a chain of thought into pieces
    2. label each piece ES (restates what is given) or AS (derives something new); neighbours with
       the same label form a segment
    3. train an encoder-decoder to write the next segment from the question and the segments so far
    4. write a new chain one segment at a time

This is the simplest version: it encodes every context anew, as the paper does. The paper's encoder
also lets every token see the whole context: BLOCK_CAUSAL = False. The package does the same, faster
and on your data; its tests check that both agree. Read top to bottom.
"""

import math
import random
import re
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODE = "usm"  # one model for all segments; "dsm": one for ES, one for AS; "direct": no segments
UPDATES, BATCH, PROBLEMS = 800, 8, 500  # BATCH: chains per update
WIDTH, HEAD, HEADS, HIDDEN, LAYERS = 64, 32, 2, 128, 2
BUCKETS, REACH = 32, 128  # of distances; all beyond REACH share one bucket
BLOCK_CAUSAL = True  # context tokens see no later segment; False: they see all (paper)
PAD, EOS, END = 0, 1, 2  # PAD also starts the decoder; EOS ends a segment, END the chain

# --- 1. pieces -----------------------------------------------------------------------------------


def split_pieces(chain: str) -> list[str]:
    """Cut after punctuation, but not inside a number. Joined, the pieces are the chain."""
    # The pattern also matches the empty end: drop that.
    return re.findall(r"(?:[^.,;!?\n]|[.,](?=\d))*(?:[.,;!?\n]+|$)", chain)[:-1]


# --- 2. labels -----------------------------------------------------------------------------------


def interleaved_labels(pieces: list[str]) -> list[str]:
    """By position: ES, AS, ES, …"""
    return ["ES" if i % 2 == 0 else "AS" for i in range(len(pieces))]


def entropy_labels(
    entropies: list[list[float]], beta: float = 1.0, gamma: float = 1.0
) -> list[str]:
    """By uncertainty: AS if a piece's entropy exceeds its chain's mean. (Not used below:
    token entropies come from a model trained on question → chain.)
    """
    of_pieces = [sum(tokens) / len(tokens) ** gamma for tokens in entropies]
    mean = sum(of_pieces) / len(of_pieces)
    return ["AS" if h > beta * mean else "ES" for h in of_pieces]


def make_segments(pieces: list[str], labels: list[str]) -> list[tuple[str, list[str]]]:
    """Merge neighbours with the same label. If AS comes first, add an empty ES before it."""
    segments = [("ES", [])] if labels[0] == "AS" else []
    for label, run in groupby(zip(labels, pieces), key=lambda pair: pair[0]):
        segments.append((label, [piece for _, piece in run]))
    return segments


# --- 3. pairs: context → next segment -------------------------------------------------------------


def make_pairs(question: list[int], segments: list[tuple[str, list[int]]]) -> list[tuple]:
    """(label, context, target) of each segment, in token ids. A context is a list of blocks: the
    question and the segments so far, each ending in EOS."""
    pairs = []
    for j, (label, ids) in enumerate(segments):
        context = [[*block, EOS] for block in (question, *(ids for _, ids in segments[:j]))]
        last = j == len(segments) - 1
        pairs.append((label, context, [*ids, END, EOS] if last else [*ids, EOS]))
    return pairs


# --- the model: a T5-like encoder-decoder --------------------------------------------------------


def linear(n_in: int, n_out: int) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False)


def norm() -> nn.RMSNorm:
    return nn.RMSNorm(WIDTH, eps=1e-6)


class PositionBias(nn.Module):
    """A learned bias for each distance from query to key; far distances share buckets."""

    def __init__(self, both_sides: bool):
        super().__init__()
        self.table = nn.Embedding(BUCKETS, HEADS)
        self.both_sides = both_sides

    def forward(self, n_queries: int, n_keys: int) -> Tensor:
        difference = torch.arange(n_keys) - torch.arange(n_queries)[:, None]
        n = BUCKETS // 2 if self.both_sides else BUCKETS
        distance = difference.abs() if self.both_sides else (-difference).clamp(min=0)
        near = n // 2  # up to here one bucket per distance, then log-spaced
        far = torch.log(distance.clamp(min=1) / near) / math.log(REACH / near) * (n - near)
        bucket = torch.where(distance < near, distance, (near + far.long()).clamp(max=n - 1))
        if self.both_sides:
            bucket = bucket + n * (difference > 0)
        return self.table(bucket).permute(2, 0, 1)  # (heads, queries, keys)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (linear(WIDTH, HEADS * HEAD) for _ in range(3))
        self.o = linear(HEADS * HEAD, WIDTH)

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor, bias: Tensor | float) -> Tensor:
        """``seen`` (B, 1, queries, keys): which keys each query sees."""
        q, k, v = self.q(x), self.k(memory), self.v(memory)
        q, k, v = (part.unflatten(-1, (HEADS, HEAD)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-1, -2) / HEAD**0.5 + bias
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = linear(WIDTH, HIDDEN), linear(WIDTH, HIDDEN)
        self.down = linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))


class Block(nn.Module):
    def __init__(self, decodes: bool):
        super().__init__()
        self.norm_self, self.self_attention = norm(), Attention()
        if decodes:
            self.norm_cross, self.cross_attention = norm(), Attention()
        self.norm_ff, self.feed_forward = norm(), FeedForward()

    def forward(self, x, seen, bias, states=None, states_seen=None):
        normed = self.norm_self(x)
        x = x + self.self_attention(normed, normed, seen, bias)
        if states is not None:
            x = x + self.cross_attention(self.norm_cross(x), states, states_seen, 0.0)
        return x + self.feed_forward(self.norm_ff(x))


class Model(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.encoder_bias, self.decoder_bias = PositionBias(True), PositionBias(False)
        self.encoder = nn.ModuleList(Block(False) for _ in range(LAYERS))
        self.decoder = nn.ModuleList(Block(True) for _ in range(LAYERS))
        self.encoder_norm, self.decoder_norm = norm(), norm()
        self.head = linear(WIDTH, vocabulary)
        fan_in = dict(table=WIDTH, q=WIDTH, k=WIDTH, v=WIDTH, gate=WIDTH, up=WIDTH, head=WIDTH)
        fan_in |= dict(o=HEADS * HEAD, down=HIDDEN, embedding=1)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                nn.init.normal_(weight, std=fan_in[name.split(".")[-2]] ** -0.5)

    def forward(self, contexts: list, inputs: list) -> Tensor:
        """Next-token logits (B, T, vocabulary) at each position of the decoder inputs."""
        source = padded([sum(context, []) for context in contexts])
        block = padded([[j for j, b in enumerate(c) for _ in b] for c in contexts], -1)
        real = block >= 0
        seen = real[:, None, :].expand(-1, source.shape[1], -1)
        if BLOCK_CAUSAL:
            seen = seen & (block[:, None, :] <= block[:, :, None])
        x, bias = self.embedding(source), self.encoder_bias(*seen.shape[1:])
        for layer in self.encoder:
            x = layer(x, seen[:, None], bias)
        states = self.encoder_norm(x)

        target = padded(inputs)
        x = self.embedding(target)
        if BLOCK_CAUSAL:
            # Add the newest token's state to the start token: nothing else marks the last block.
            newest = states[torch.arange(len(states)), real.sum(1) - 1]
            x = torch.cat([x[:, :1] + newest[:, None], x[:, 1:]], 1)
        n = target.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool).tril()
        for layer in self.decoder:
            x = layer(x, causal, self.decoder_bias(n, n), states, real[:, None, None, :])
        return self.head(self.decoder_norm(x))

    def loss(self, pairs: list[tuple]) -> tuple[Tensor, int]:
        """Summed loss (nats) of all target tokens, and their number."""
        logits = self([context for _, context, _ in pairs], [[PAD, *t[:-1]] for _, _, t in pairs])
        target = padded([t for _, _, t in pairs], -100)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
        return loss, int((target != -100).sum())


def padded(rows: list[list[int]], value: int = PAD) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


# --- training ------------------------------------------------------------------------------------


def orthogonal(x: Tensor) -> Tensor:
    """Push singular values toward 1 (Newton-Schulz with Jordan's coefficients)."""
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


def train(model: Model, chains: list[list[tuple]], updates: int = UPDATES) -> None:
    """Train on the pairs of all chains: Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [
        p for p in [*model.encoder.parameters(), *model.decoder.parameters()] if p.dim() == 2
    ]
    others = [p for p in model.parameters() if all(p is not matrix for matrix in matrices)]
    adam = torch.optim.AdamW(others, lr=0.03, betas=(0.9, 0.98), weight_decay=0.2)
    means = [torch.zeros_like(p) for p in matrices]
    for step in range(updates):
        share = step / updates
        # Warm-up, then cosine decay; never zero.
        rate = min(share / 0.05, 0.5 + 0.5 * math.cos(math.pi * share)) + 1e-3

        loss, n = model.loss(sum(random.sample(chains, BATCH), []))
        (loss / n).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)

        adam.param_groups[0]["lr"] = 0.03 * rate
        adam.step()
        with torch.no_grad():
            for p, mean in zip(matrices, means):
                mean.lerp_(p.grad, 0.05)
                update = orthogonal(p.grad.lerp(mean, 0.95))
                p.mul_(1 - 0.002 * rate).sub_(update, alpha=0.01 * rate)
        model.zero_grad()
        if step % 100 == 0:
            print(f"update {step:4}, loss {loss.item() / n:.3f}")


# --- 4. iterative generation ---------------------------------------------------------------------


@torch.no_grad()
def write_segment(model: Model, context: list[list[int]], most: int) -> list[int]:
    """Greedy decoding up to EOS, END or ``most`` tokens."""
    ids = []
    while len(ids) < most and ids[-1:] not in ([EOS], [END]):
        ids.append(int(model([context], [[PAD, *ids]])[0, -1].argmax()))
    return ids


def write_chain(
    models: dict[str, Model], question: list[int], most_segments: int = 12, most_tokens: int = 99
) -> list[tuple[str, list[int]]]:
    """Segments (label, ids), until a model writes END or reaches a limit."""
    segments: list[tuple[str, list[int]]] = []
    for turn in range(most_segments):
        label = list(models)[turn % len(models)]  # ES, AS, ES, …
        context = [[*block, EOS] for block in (question, *(ids for _, ids in segments))]
        ids = write_segment(models[label], context, most_tokens)
        ended = ids[-1] in (EOS, END)
        segments.append((label, ids[:-1] if ended else ids))
        if ids[-1] != EOS:
            break
    return segments


# --- an experiment -------------------------------------------------------------------------------


def word_problem(rng: random.Random) -> tuple[str, str]:
    """A problem with one to three steps, and its chain of thought."""
    name, thing = rng.choice(["Tom", "Ann", "Eva", "Ben"]), rng.choice(["pens", "cups", "eggs"])
    total = rng.randint(2, 9)
    question = f"{name} has {total} {thing}."
    chain = f"{name} has {total} {thing}, so the count is {total}."
    for _ in range(rng.randint(1, 3)):
        n = rng.randint(1, 9)
        if rng.random() < 0.5 and total > n:
            fact, sign, result = f" {name} loses {n}", "-", total - n
        else:
            fact, sign, result = f" {name} finds {n}", "+", total + n
        question += f"{fact}."
        chain += f"{fact}, so {total} {sign} {n} = {result}."
        total = result
    return f"{question} How many are left?", f"{chain} The answer is {total}."


def tokens(text: str) -> list[str]:
    return re.findall(r" ?[A-Za-z]+| ?\d|.", text)


def answer(text: str) -> str | None:
    found = re.search(r"The answer is (\d+)", text)
    return found and found[1]


def main() -> None:
    torch.set_num_threads(1)  # a model this small gains nothing from more
    torch.manual_seed(0)
    rng = random.Random(0)
    random.seed(0)
    problems = list(dict.fromkeys(word_problem(rng) for _ in range(PROBLEMS + 500)))
    training, test = problems[:PROBLEMS], problems[PROBLEMS:][:200]
    words = sorted({token for problem in training for text in problem for token in tokens(text)})
    number = {token: i for i, token in enumerate(words, 3)}

    def encode(text: str) -> list[int]:
        return [number[token] for token in tokens(text)]

    chains = []
    for question, chain in training:
        pieces = split_pieces(chain)
        segments = make_segments(pieces, interleaved_labels(pieces))
        if MODE == "direct":
            segments = [("chain", pieces)]
        ids = [(label, encode("".join(own))) for label, own in segments]
        chains.append(make_pairs(encode(question), ids))

    if MODE == "dsm":
        models = {"ES": Model(len(words) + 3), "AS": Model(len(words) + 3)}
        for label, model in models.items():
            own = [[pair for pair in pairs if pair[0] == label] for pairs in chains]
            train(model, own, UPDATES // 2)
    else:
        model = Model(len(words) + 3)
        train(model, chains)
        models = {"chain": model} if MODE == "direct" else {"ES": model, "AS": model}

    print(f"writing chains for {len(test)} new problems …")
    right = 0
    for question, chain in test:
        segments = write_chain(models, encode(question))
        texts = ["".join(words[i - 3] for i in ids if i > 2) for _, ids in segments]
        right += answer("".join(texts)) == answer(chain)
    print(f"{right} of {len(test)} new problems solved ({right / len(test):.1%}). The last one:")
    print(question)
    for (label, _), text in zip(segments, texts):
        print(f"  {label} {text.strip()}")


if __name__ == "__main__":
    main()
