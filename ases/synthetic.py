"""The embedded tasks: generated examples whose every piece knows its true role.

Nothing is downloaded and nothing is fixed text: a seed gives the same examples everywhere, and the generator
knows which piece of a chain restates the question (ES) and which derives something (AS), so that a segmentation
can be scored against the truth. The wording is ours; METHOD 5 says what the two tasks are.

* ``mwp``: word problems in one to four steps (five or six in the split ``longer``), a fact that does not matter
  now and then, whole numbers from 1 to ``max_number``.
* ``pet``: PET/CT findings, organ by organ → a numbered impression; every item restates a finding and judges it.
"""

import random

from ases.data import Example

Piece = tuple[str, str]  # (role, text)


def make_splits(task: str, n_train: int, n_validation: int, n_test: int, seed: int, max_number: int) -> dict[str, list[Example]]:
    """Generate the splits ``train``, ``validation``, ``test`` and, for ``mwp``, ``longer``.

    ``longer`` has problems of more steps than any training problem, as many as ``test``. No question occurs
    twice, within a split or across them. A larger training split begins with the smaller one.

    Raises:
        ValueError: a range so small that the generator runs out of different questions.
    """
    sizes = {"test": n_test, "validation": n_validation, "train": n_train}
    if task == "mwp":
        sizes = {"longer": n_test} | sizes
    seen: set[str] = set()
    splits = {}
    for name, size in sizes.items():
        rng = random.Random(f"{task}-{name}-{seed}")  # its own stream: a split does not depend on the others' sizes
        splits[name] = examples = []
        repeats = 0
        while len(examples) < size:
            if repeats > 1000:
                raise ValueError(f"only {len(examples)} different {name} questions found with numbers up to {max_number}; expected {size}")
            question, pieces = _pet(rng) if task == "pet" else _word_problem(rng, rng.choice((5, 6) if name == "longer" else (1, 2, 2, 3, 3, 4)), max_number)
            repeats = repeats + 1 if question in seen else 0
            if not repeats:
                seen.add(question)
                answer = "".join(text for _, text in pieces)
                examples.append(Example(f"{name}-{len(examples)}", question, answer, tuple(pieces)))
    return {name: splits[name] for name in ("train", "validation", "test", "longer") if name in splits}


# --- word problems -------------------------------------------------------------------------------------------
#
# A problem is a chain of schemas over one running quantity. Each schema returns the sentence for the question,
# the facts the chain restates (ES), the derivation (AS) and the new value, or None where the numbers do not fit.

_PEOPLE = [(n, "he", "his") for n in "Tom Ben Sam Max Leo Dan Eli Jack Omar Paul Ravi Hugo".split()]
_PEOPLE += [(n, "she", "her") for n in "Ann Mia Zoe Eva Kim Lucy Nina Rosa Sara Tina Uma Beth".split()]
_ITEMS = "apples pears eggs pens books cards coins stamps shells marbles stickers cookies candies beads toys roses".split()
_CONTAINERS = "boxes bags baskets packs jars".split()


class _Story:
    """What the sentences of one problem share: the hero, a friend, the items, the largest number allowed."""

    def __init__(self, rng: random.Random, max_number: int):
        self.rng, self.max = rng, max_number
        (self.name, self.he, self.his), (self.friend, _, _) = rng.sample(_PEOPLE, 2)
        self.items, self.container = rng.choice(_ITEMS), rng.choice(_CONTAINERS)
        self.He = self.he.capitalize()

    def say(self, *wordings: str) -> str:
        return self.rng.choice(wordings)

    def factors(self) -> tuple[int, int] | None:
        a = self.rng.randint(2, min(9, max(2, self.max // 2)))
        return (a, self.rng.randint(2, min(9, self.max // a))) if 2 * a <= self.max else None

    def addend(self, value: int) -> int | None:
        return self.rng.randint(1, self.max - value) if value < self.max else None


def _groups_of(s: _Story, _):
    a, b = s.factors()
    text = s.say(f"{s.name} has {a} {s.container} with {b} {s.items} in each.", f"There are {b} {s.items} in each of {s.name}'s {a} {s.container}.")
    return text, [f"{s.name} has {a} {s.container}", f"with {b} {s.items} in each"], f"{s.he} has {a} * {b} = {a * b} {s.items}", a * b


def _has_and_buys(s: _Story, _):
    a = s.rng.randint(1, s.max - 1)
    b = s.addend(a)
    text = s.say(f"{s.name} has {a} {s.items} and buys {b} more.", f"{s.name} had {a} {s.items} when {s.he} got {b} more.")
    return text, [f"{s.name} has {a} {s.items}", f"{s.he} gets {b} more"], f"{s.he} has {a} + {b} = {a + b} {s.items}", a + b


def _works(s: _Story, _):
    a, b = s.factors()
    text = s.say(f"{s.name} picks {a} {s.items} an hour and works for {b} hours.", f"In each of {b} hours {s.name} picks {a} {s.items}.")
    return text, [f"{s.name} picks {a} {s.items} an hour", f"{s.he} works {b} hours"], f"{s.he} has {a} * {b} = {a * b} {s.items}", a * b


def _buys_with_change(s: _Story, _):
    price, money = s.rng.randint(1, s.max - 1), 0
    money = price + s.addend(price)
    text = s.say(f"{s.name} has {money} dollars and pays {price} dollars for a hat. For each dollar of change {s.he} gets one of the {s.items}.",
                 f"A hat costs {price} dollars and {s.name} has {money} dollars. After buying it {s.he} trades each dollar for one of the {s.items}.")
    return text, [f"{s.name} has {money} dollars", f"the hat costs {price} dollars"], f"{s.he} gets {money} - {price} = {money - price} {s.items}", money - price


def _gives_away(s: _Story, value: int):
    if value < 2:
        return None
    b = s.rng.randint(1, value - 1)
    text = s.say(f"{s.He} gives {b} {s.items} to {s.friend}.", f"{s.friend} gets {b} of the {s.items}.")
    return text, [f"{s.friend} gets {b} {s.items}"], f"{s.he} has {value} - {b} = {value - b} {s.items} left", value - b


def _loses(s: _Story, value: int):
    if value < 2:
        return None
    b = s.rng.randint(1, value - 1)
    text = s.say(f"{s.He} loses {b} {s.items}.", f"Then {b} {s.items} go missing.")
    return text, [f"{s.he} loses {b} {s.items}"], f"{s.he} has {value} - {b} = {value - b} {s.items} left", value - b


def _finds(s: _Story, value: int):
    if (b := s.addend(value)) is None:
        return None
    text = s.say(f"{s.He} finds {b} more {s.items}.", f"Then {s.he} finds {b} {s.items}.")
    return text, [f"{s.he} finds {b} {s.items}"], f"{s.he} has {value} + {b} = {value + b} {s.items}", value + b


def _birthday(s: _Story, value: int):
    if (b := s.addend(value)) is None:
        return None
    text = s.say(f"For {s.his} birthday {s.he} gets {b} {s.items}.", f"{s.friend} brings {s.name} {b} {s.items}.")
    return text, [f"{s.he} is given {b} {s.items}"], f"{s.he} has {value} + {b} = {value + b} {s.items}", value + b


def _doubles(s: _Story, value: int):
    times = s.rng.choice([2, 2, 3])
    if times * value > s.max or value > 20:
        return None
    word = {2: "twice", 3: "three times"}[times]
    text = s.say(f"A week later {s.he} has {word} as many.", f"After a week the number of {s.items} is {word} as large.")
    return text, [f"later {s.he} has {word} as many"], f"{s.he} has {value} * {times} = {value * times} {s.items}", value * times


def _shares(s: _Story, value: int):
    divisors = [k for k in range(2, 10) if value % k == 0 and value // k <= 9]
    if not divisors:
        return None
    k = s.rng.choice(divisors)
    text = s.say(f"{s.He} shares the {s.items} equally with friends, so that {k} people have the same.", f"The {s.items} are split evenly among {s.name} and {k - 1} friends.") if k > 2 else f"{s.He} keeps half of the {s.items}."
    fact = f"the {s.items} are shared by {k} people" if k > 2 else f"{s.he} keeps half"
    return text, [fact], f"{s.he} has {value} / {k} = {value // k} {s.items}", value // k


def _trades(s: _Story, value: int):
    """More than: the hero ends up with some more than a friend, who has as many as the hero had."""
    if (b := s.addend(value)) is None:
        return None
    text = s.say(f"In the end {s.he} has {b} {s.items} more than that.", f"By evening {s.he} has {b} {s.items} more than before.")
    return text, [f"{s.he} has {b} more than before"], f"{s.he} has {value} + {b} = {value + b} {s.items}", value + b


def _fewer(s: _Story, value: int):
    if value < 2:
        return None
    b = s.rng.randint(1, value - 1)
    text = s.say(f"By night {s.he} has {b} {s.items} fewer.", f"The next day {s.he} has {b} {s.items} fewer than that.")
    return text, [f"{s.he} has {b} fewer than before"], f"{s.he} has {value} - {b} = {value - b} {s.items}", value - b


#: Schemas that open a story, and schemas that carry it on.
OPENINGS = (_groups_of, _has_and_buys, _works, _buys_with_change)
EVENTS = (_gives_away, _loses, _finds, _birthday, _doubles, _shares, _trades, _fewer)


def _word_problem(rng: random.Random, steps: int, max_number: int) -> tuple[str, list[Piece]]:
    story = _Story(rng, max_number)
    sentences, pieces, value = [], [], 0
    for step in range(steps):
        while not (made := rng.choice(EVENTS if step else OPENINGS)(story, value)):
            pass
        sentence, facts, derivation, value = made
        sentences.append(sentence)
        pieces += _tell(story, facts, derivation, first=step == 0)
    if rng.random() < 0.3:
        sentences.insert(rng.randint(1, len(sentences)), _distractor(story))
    sentences.append(story.say(f"How many {story.items} does {story.name} have now?", f"How many {story.items} does {story.he} end up with?"))
    pieces.append(("ES", f" The answer is {value}."))
    return " ".join(sentences), pieces


def _tell(s: _Story, facts: list[str], derivation: str, first: bool) -> list[Piece]:
    """One step of the chain: usually its facts in one piece and then the derivation, sometimes not."""
    start = "" if first else " "
    style = s.rng.random()
    if style < 0.12 and not first:  # no facts restated: interleaving by position is now out of step
        return [("AS", f"{start}Then {derivation}.")]
    if style > 0.85 and len(facts) == 2:  # two pieces of facts
        return [("ES", f"{start}{_capital(facts[0])},"), ("ES", f" {facts[1]},"), ("AS", f" so {derivation}.")]
    return [("ES", f"{start}{_capital(' and '.join(facts)).replace(' and with', ' with')},"), ("AS", f" so {derivation}.")]


def _distractor(s: _Story) -> str:
    n = s.rng.randint(2, min(s.max, 20))
    return s.say(f"{s.friend} is {n} years old.", f"It is {n} miles to the town.", f"There are {n} trees near the house.", f"{s.name} has {n} cousins.")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# --- PET/CT reports ------------------------------------------------------------------------------------------

_SITES = {
    "lung": ["the right upper lung", "the right lower lung", "the left upper lung", "the left lower lung"],
    "node": ["the left neck", "the right neck", "the mediastinum", "the left groin", "the right groin", "the abdomen"],
    "bone": ["the third thoracic vertebra", "the fourth lumbar vertebra", "the left ilium", "the right fifth rib"],
    "solid": ["the right liver lobe", "the left liver lobe", "the head of the pancreas", "the tail of the pancreas", "the left kidney", "the right kidney", "the spleen"],
    "hollow": ["the stomach", "the duodenum", "the sigmoid colon", "the lower esophagus"],
}
_SHAPE = {"lung": "nodule", "node": "lymph node", "bone": "bone lesion", "solid": "lesion", "hollow": "wall thickening"}
_UPTAKE = {"none": (0, 0), "mild": (12, 29), "marked": (50, 180)}  # SUVmax in tenths
_NORMAL = [
    "The brain shows a symmetric distribution of the tracer.", "The thyroid is of normal size.", "The heart muscle is not visualised.",
    "No pleural effusion is seen.", "The gallbladder is unremarkable.", "The adrenal glands show no abnormal uptake.",
    "The bladder shows physiological uptake.", "Both ureters are of normal width.", "No ascites is seen.", "The muscles are unremarkable.",
]


def _judgement(kind: str, uptake: str, size: int, change: str) -> str:
    """The rules a model has to find: what is made of a finding, given kind, uptake, size in mm and change."""
    if change and uptake == "marked":
        return "progression is considered" if change == "larger" else "response to treatment is considered"
    if uptake == "none":
        return {"lung": "follow-up is advised" if size >= 10 else "a benign nodule is likely", "solid": "a cyst is likely",
                "node": "reactive change is likely", "bone": "a bone island is likely", "hollow": "chronic inflammation is likely"}[kind]
    if uptake == "mild":
        return {"lung": "old inflammation is likely", "solid": "follow-up is advised", "node": "metastasis cannot be excluded" if size >= 10 else "reactive change is likely",
                "bone": "degenerative change is likely", "hollow": "endoscopy is advised"}[kind]
    return {"node": "metastasis is considered", "bone": "metastasis is considered"}.get(kind, "malignancy is considered")


def _pet(rng: random.Random) -> tuple[str, list[Piece]]:
    findings, pieces = [], []
    kinds = rng.sample(sorted(_SITES), rng.randint(1, 3))
    places = [(kind, rng.choice(_SITES[kind])) for kind in kinds]
    for number, (kind, site) in enumerate(places, 1):
        uptake, size = rng.choice(sorted(_UPTAKE)), rng.randint(4, 29)
        change = rng.choice(["", "", "larger", "smaller"])
        suv = rng.randint(*_UPTAKE[uptake])
        level = {"none": "no increased uptake", "mild": f"mildly increased uptake, SUVmax {suv / 10:.1f}", "marked": f"markedly increased uptake, SUVmax {suv / 10:.1f}"}[uptake]
        compared = f", {change} than before" if change else ""
        opening = rng.choice([f"A {_SHAPE[kind]} of {size} mm in {site}", f"In {site} a {_SHAPE[kind]} of {size} mm"])
        findings.append(f"{opening} with {level}{compared}.")
        noun = _capital(_SHAPE[kind])
        word = {"none": "without uptake", "mild": "with mild uptake", "marked": "with marked uptake"}[uptake]
        pieces.append(("ES", f"{' ' if pieces else ''}{number}. {noun} in {site} {word},"))
        if change:  # a second piece of facts: interleaving by position is out of step from here on
            pieces.append(("ES", f" {change} than before,"))
        pieces.append(("AS", f" {_judgement(kind, uptake, size, change)}."))
    pieces.append(("ES", " No other abnormal uptake is seen."))
    for sentence in rng.sample(_NORMAL, rng.randint(1, 3)):
        findings.insert(rng.randint(0, len(findings)), sentence)
    return " ".join(findings), pieces
