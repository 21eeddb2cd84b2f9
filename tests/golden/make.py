"""Write the golden files: `python tests/golden/make.py`. README.md describes them."""

import json
import math
import re
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from ases import segmentation
from ases.answers import parse_answer
from ases.attention import attention, block_span, causal_span, packed_span
from ases.decoding import Decoded, generate_chains
from ases.entropy import token_entropies
from ases.metrics import score
from ases.model import start_from
from ases.pairs import Pair, collate, encode_question, make_pairs
from ases.segmentation import AS, ES, entropy_labels, interleaved_labels, make_segments
from ases.settings import CHAIN
from tests.golden.conventions import CONVENTIONS

# name | question | answer
PROBLEMS = [
    "toy | Tom has 3 boxes of 4 apples. He eats 2. How many apples are left? | Tom has 3 boxes of 4 apples, so he has 3 * 4 = 12 apples. He eats 2, so 12 - 2 = 10 are left. The answer is 10.",
    "thousands | A car costs $1,005.50 and a bike $300. How much are both? | The car is $1,005.50, the bike $300.\nTogether $1,005.50 + $300 = $1,305.50.\nThe answer is 1,305.50.",
    "newlines | Ann sold 48 clips in April, half as many in May. How many in all? | In May 48/2 = 24 clips. \n\nIn all 48+24 = 72!\nThe answer is 72.",
    "titles | Mrs. Lee gave Dr. Wu half of 9 pears. How many? | Mrs. Lee had 9 pears; half is 9 / 2 = 4.5, i.e. 4.5 for Dr. Wu. The answer is 4.5.",
    'quotes | Leo said: "I have 5!" and lost 2. How many now? | Leo says "I have 5!" He loses 2... So 5 - 2 = 3? Yes. The answer is 3.',
    "marks first | What is 1 + 1? | ... well, 1 + 1 = 2 (two). The answer is 2.",
    "one piece | What is 2? | The answer is 2.",
    "items | A nodule of 12 mm is seen in the left lung with markedly increased uptake. | 1. Nodule in the left lung with marked uptake, malignancy is considered. 2. No other abnormal uptake is seen.",
    "chinese | 胰头部高代谢肿块，SUVmax：8.5；肝内囊性灶，无代谢。 | 1、胰头部高代谢肿块，考虑恶性；肝囊肿。  2.余躯干未见异常代谢征象。",
    "mixed width | 肺结节12mm,SUVmax:3.6. | 肺结节12mm,代谢轻度增高,考虑炎性.建议随访（3个月）。",
    "negative | It was -3 degrees and fell by 4. What is it now? | It was -3, now it is -3 - 4 = -7. The answer is -7.",
    "unpunctuated | Sam has 7 and gets 5 | Sam has 7 and 7 + 5 = 12\nThe answer is 12.",
    "blanks and links | How many at No. 5? | See https://a.org/x?y=1,2! No. 5 has 3; \n \n  that is x², or 3 != 4, so 1. Add 2.\nThe answer is 3.",
    'marks in a row | Which rules meet? | Is it 4?) No!! It is 3!!= 4; a?.5 is (half,) b;, c. Point A. Then J. Smith saw http://a.b. Then No.  5 and No.    6 have {1{,}000} or 5...10,\t5 …. The end.." \n\n  x² 3. is I.E. q.\n3. is it',
    "factorials | How many ways are there to pick 2 of 10, and what do 14,\\!400 cost? | There are 10! / (2! * 8!) = 45 ways! Each of 14,\\!400 costs Rs. 2. The answer is 45.",
]
GAMMAS, BETAS, VOCABULARY = (0.0, 0.5, 1.0, 2.0), (0.8, 1.0, 1.2, 1.4), 6
# What a segment ends with, in the files and in ases.decoding
ENDS = {"</s>": "segment", "<end>": "chain", "limit": "length"}
SCRIPTS = {
    "ends": "Tom has 3 boxes,</s> so 3 * 4 = 12.</s> The answer is 12.<end>",
    "too many rounds": "a</s>b</s>c</s>d</s>",
    "too long a segment": "a</s>bbbbbbbb limit",
    "the same twice": "a</s>b</s>b</s>",
    "two empty ones": "</s>a</s></s>",
    "one empty one": "</s>a</s>b<end>",
    "the same twice, but at its end": "a</s>b</s>b<end>",
    "the same twice, but too long": "a</s>b</s>b limit",
    "the same twice, in the last round": "a</s>b</s>c</s>c</s>",
    "empty at the end": "a</s><end>",
    "direct": "He has 12.<end>",
    "direct without an end": "He has 12.</s>",
}
PREDICTIONS = [
    ("The answer is 72.", "The answer is 72."),
    ("so $1,005.00. The answer is $1,005.00.", "The answer is 1,005."),
    ("The answer is 5-2", "The answer is 3."),
    ("it is -3", "The answer is -3."),
    ("The answer is 1/2.", "The answer is 0.5."),
    ("no idea", "The answer is 4."),
    ("The answer is 29.00", "The answer is 29."),
    ("The answer is 4 of 5.", "The answer is 4."),
    ("#### 1,080", "The answer is 1080."),
    ("", "The answer is 1."),
    ("THE ANSWER IS 4.5.", "The answer is 4.5."),
    ("The answer is 3. Wait, the answer is 5.", "The answer is 5."),
    ("4 pens, the answer is unknown", "The answer is 4."),
    ("2 and then 6", "The answer is 6."),
    ("The answer is 3/0.", "The answer is 3."),
    ("The answer is 1000.", "The answer is 1,000."),
    ("The answer is unknown, 5 pens", "no number here"),
    ("nothing stated", "nothing stated"),
    ("The answer is .5.", "The answer is 1/2."),
    ("The answer is 1,00,000.", "The answer is 100,000."),
    ("The answer is $-5.", "The answer is -5."),
    ("so the answer is-5", "The answer is -5."),
    ("The answer is 2 + 3 = 5.", "The answer is 5."),
    ("The answer is 5 + 3.", "The answer is 8."),
    ("The answer is 10 000 or more.", "The answer is 10,000."),
    ("The answer is 1 1/2.", "The answer is 1.5."),
    ("The answer is −５.", "The answer is -5."),
    *(
        (f"The answer is {text}", "The answer is 5.")
        for text in (
            "5+3. | 5*3 | 5 -3 | 5 - 3 | 5 / 3 | ½ of 6 | 2 ½ | 1E5 | 2^3 | 3:45 | "
            r"1.234.567 | \frac{1}{2} | \dfrac{10}{2} | 10⁄2 | 1{,}080 | :: 5 | - 5 | $ 5 | "
            "-$5 | (2)-5 | a-5 | 5 = 5 | 5 = 2 + 3 | 2 + 3 = 4 + 1 = 5 | "
            "2 + 3 = 5. Check: 1 = 1 | 5 x 4 boxes | 5 x 1 = 5 boxes | 5 * (4 + 1) | "
            "7.5/1.5 | 1,000/2 | 5 boxes - 5 left | 2 + 3 = 5 + 1 | 5 million | 5k | 5x | "
            "5 m/s | 5 square feet. | 12-foot | -(1/2) | minus 5 | in all - 5 | about -5 | "
            "(5) | (1, 2) | 5, 6 | 3 hours and 20 minutes | twenty 5 | not 5 | 5! | "
            r"\boxed{5} | 10,\!080 | **5** apples. Then 6 | Rs. 5 | x = 2, y = 3 | x >= 5 | "
            "5 a day | ５．５"
        ).split(" | ")
    ),
]
REPORTS = [
    ("1、胰头部高代谢灶，考虑恶性。", "1、胰头部高代谢肿块，考虑恶性；肝囊肿。"),
    ("肝囊肿 SUVmax 3.6", "肝囊肿，SUVmax：3.6。"),
    ("", "未见异常。"),
    ("SUVMAX 3.6，Running", "SUVmax 3.6，runs"),
]
LANGUAGES = [
    [("Есть признаки роста, 3 см.", "Нет признаков роста, 3 см."), ("ёлка", "Ёлка")],
    [("Größere Läsion im linken Lappen", "Große Läsion im rechten Lappen")],
    [("ผู้ป่วยมีเนื้องอก 3 cm", "ผู้ป่วยไม่มีเนื้องอก 3 cm")],
    [("SUVmax 12.3, 4.5 cm x 3.2 cm, 恶性", "SUVmax 12.3, 4.5 cm x 3.2 cm, 良性")],
]


def record(names: str, *values) -> dict:
    return dict(zip(names.split(), values, strict=True))


def write(name: str, content) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    (HERE / name).write_text(text + "\n", encoding="utf-8")


def texts(segments) -> list[dict]:
    return [{"label": s.label, "text": s.text} for s in segments]


def pairs(question: str, segments) -> list[dict]:
    """What make_pairs does, in words; `end`: <end> follows the target."""
    parts, last = [question, *(s.text for s in segments)], len(segments) - 1
    return [
        {"role": s.label, "context": parts[: j + 1], "target": s.text, "end": j == last}
        for j, s in enumerate(segments)
    ]


class Letters:
    """A tokenizer whose ids are code points; its special tokens lie beyond Unicode."""

    pad_id, eos_id, end_id = 1114112, 1114113, 1114114

    @staticmethod
    def encode(text: str) -> list[int]:
        return [ord(c) for c in text]

    @classmethod
    def encode_pieces(cls, pieces: list[str]) -> list[list[int]]:
        return [cls.encode(piece) for piece in pieces]

    @staticmethod
    def decode(ids: list[int]) -> str:
        return "".join(chr(i) for i in ids if i < 1114112)


def decoding_case(name: str, text: str) -> dict:
    """The chain of a model that writes a script whatever it reads, and what it reads."""
    script = re.findall(f"(.*?) ?({'|'.join(ENDS)})", text)
    read, steps = [], iter(script)

    def write(role, chains, contexts):
        context = "".join(Letters.decode(block) + "</s>" for block in contexts[0])
        read.append({"role": role, "context": context})
        segment, end = next(steps)
        return [Decoded(Letters.encode(segment), ENDS[end])]

    roles, rounds = ((CHAIN,), 1) if name.startswith("direct") else ((ES, AS), 4)
    [chain] = generate_chains(write, [Letters.encode("q?")], Letters, roles, rounds)
    script = [{"segment": segment, "ended_by": end} for segment, end in script]
    segments = [{"label": role, "text": text} for role, text in chain.segments]
    names = "name question roles max_rounds script read segments stop"
    return record(names, name, "q?", list(roles), rounds, script, read, segments, chain.stop)


def attention_cases() -> list[dict]:
    """Two rows of two heads for each kind of mask, in float64."""
    lengths = torch.tensor([[3] * 4, [5] * 4])
    starts, stops = [[0, 1, 1, 4], [2, 2, 3, 5]], [[2, 2, 5, 5], [2, 4, 4, 5]]
    masks = {
        "dense": (None, None),
        "padding": block_span(lengths),
        "padded queries": block_span(lengths, torch.tensor([2, 4])),
        "causal, behind one cached key": causal_span(4, offset=1),
        "blocks": block_span(torch.tensor([[2, 2, 4, 4], [1, 3, 3, 5]])),
        "packed": packed_span(torch.tensor([[0, 0, 2, 2], [0, 1, 1, 4]])),
        "any": (torch.tensor(starts), torch.tensor(stops)),
    }
    shapes = {"q": (2, 2, 4, 3), "k": (2, 2, 5, 3), "v": (2, 2, 5, 3), "rel_bias": (2, 5)}
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(*shape, generator=generator, dtype=torch.float64) * 1.5
    cases = []
    for name, (first, last) in masks.items():
        numbers = {key: draw(shape).round(decimals=2) for key, shape in shapes.items()}
        options = {"query_offset": int("cached" in name), "scale": 0.5}
        numbers["out"] = attention(**numbers, first=first, last=last, **options)
        case = {"name": name} | {key: x.tolist() for key, x in numbers.items()}
        for key, span in (("first", first), ("last", last)):
            case[key] = None if span is None else span.expand(2, -1).tolist()
        cases.append(case | options)
    return cases


def scored(name, context, question, pieces, counts, logits) -> dict:
    """All that follows from the logits of a chain's tokens."""
    logits = [[round(v, 2) for v in line] for line in logits]
    values = token_entropies(torch.tensor(logits, dtype=torch.float64))
    per_piece = [part.tolist() for part in values.split(counts)]
    shown = [["-inf" if v == -math.inf else v for v in line] for line in logits]
    names = "id context tokens_per_piece logits token_entropies"
    row = record(names, name, context, counts, shown, values.tolist())
    entropies = {gamma: segmentation.piece_entropies(per_piece, gamma) for gamma in GAMMAS}
    row["piece_entropies"] = {str(gamma): found for gamma, found in entropies.items()}
    row["labels"] = {
        f"gamma={gamma} beta={beta}": entropy_labels(found, beta)
        for gamma, found in entropies.items()
        for beta in BETAS
    }
    labels = row["labels"]["gamma=1.0 beta=1.0"]
    row["segments"] = texts(make_segments(pieces, labels))
    row["segments_unmerged"] = texts(make_segments(pieces, labels, merge=False))
    targets = ["".join(pieces)] if context == "prefix" else pieces
    return row | {"scored": [{"source": question, "target": target} for target in targets]}


def special_entropies() -> list[dict]:
    """What a model rarely gives."""
    three, seven = ["He has 3,", " so 4.", " The answer is 4."], list("abcdefg")
    some = [0.0, 1.0, 2.0, 0.0, -1.0, 0.5]
    certain = [-math.inf] * 5 + [0.0]
    two = [0.3, -math.inf, 0.3, -math.inf, -math.inf, -math.inf]
    seventh = [1.38, 1.03, -0.32, -0.96, 0.05, -0.38]
    cases = {
        "no tokens": (three, [1, 0, 2], [some, some, two]),
        "impossible tokens": (three, [1, 1, 1], [certain, two, some]),
        "equal": (three, [1, 1, 1], [some, some, some]),
        "equal, seven": (seven, [1] * 7, [seventh] * 7),
    }
    return [
        scored(name, "prefix", "q?", pieces, counts, logits) | {"pieces": pieces}
        for name, (pieces, counts, logits) in cases.items()
    ]


def all_pairs(name: str, question: str, pieces: list[str], labels: list[str]) -> dict:
    """The pairs of every mode, one encoding of a chain, and a question that is cut."""
    segments, long = make_segments(pieces, labels), "abcdefghijkl"
    usm, (cut, _) = pairs(question, segments), encode_question(long, Letters, 7)
    row = make_pairs(question, segments, Letters)
    source, ends = [], []
    for block in row[-1].context:
        source += block
        ends += [len(source)] * len(block)
    targets, reads = [pair.target for pair in row], [len(pair.source) for pair in row]
    answer = "".join(pieces)
    return {
        "id": name,
        "labels": labels,
        "direct": [{"role": CHAIN, "context": [question], "target": answer, "end": True}],
        "usm": usm,
        "esm": [pair for pair in usm if pair["role"] == ES],
        "asm": [pair for pair in usm if pair["role"] == AS],
        "usm_unmerged": pairs(question, make_segments(pieces, labels, merge=False)),
        "one_encoding": record("source ends targets reads", source, ends, targets, reads),
        "cut_question": record("question max_question ids", long, 7, cut),
    }


def decoder_starts() -> dict:
    """A row of three targets, with made-up states and embeddings of width 2."""
    targets, reads = [[4, 1], [1], [5, 4, 2, 1]], [3, 5, 6]
    blocks = [[6, 7, 1], [4, 1], [1]]
    row = [Pair("", blocks[: j + 1], target) for j, target in enumerate(targets)]
    embeddings = [[i, -i] for i in range(8)]
    states = [[10 * (i + 1), 10 * (i + 1) + 5] for i in range(6)]
    batch = collate([row], pad_id=0, start_id=3)
    inputs = torch.tensor(embeddings)[batch.decoder_input]
    starts = start_from(torch.tensor([states]), inputs, batch.begins)[0].tolist()
    names = "start_id embeddings states targets reads decoder_inputs"
    return record(names, 3, embeddings, states, targets, reads, starts)


def score_cases() -> dict:
    answers, sets = [], []
    for text, _ in PREDICTIONS:
        number = parse_answer(text)
        read = {name: rule(text) for name, rule in CONVENTIONS.items()}
        shown = None if number is None else str(number)
        answers.append({"text": text, "number": shown, "by_convention": read})
    for task, rows in ("mwp", PREDICTIONS), ("pet", REPORTS), *(("pet", r) for r in LANGUAGES):
        predictions, references = map(list, zip(*rows))
        scores = score(task, predictions, references)
        del scores["intervals"]
        names = "task predictions references scores"
        sets.append(record(names, task, predictions, references, scores))
    return {"answers": answers, "sets": sets}


def main() -> None:
    torch.manual_seed(0)
    segmented, entropy, paired = [], [], []
    for problem in PROBLEMS:
        name, question, answer = problem.split(" | ")
        pieces = segmentation.split_pieces(answer)
        labels = interleaved_labels(len(pieces))
        segments = texts(make_segments(pieces, labels))
        names = "id question answer pieces interleaved segments"
        segmented.append(record(names, name, question, answer, pieces, labels, segments))
        counts = [max(1, len(p) // 8) for p in pieces]  # as if a token were about eight characters
        for context in ("prefix", "question"):
            logits = (torch.randn(sum(counts), VOCABULARY) * 3).tolist()
            entropy.append(scored(name, context, question, pieces, counts, logits))
        labels = entropy[-2]["labels"]["gamma=1.0 beta=1.0"]
        paired.append(all_pairs(name, question, pieces, labels))
    write("decoder_starts.json", decoder_starts())
    write("attention.json", attention_cases())
    write("segmentation.json", segmented)
    write("entropy.json", entropy + special_entropies())
    write("pairs.json", paired)
    write("decoding.json", [decoding_case(*item) for item in SCRIPTS.items()])
    write("scores.json", score_cases())


if __name__ == "__main__":
    main()
