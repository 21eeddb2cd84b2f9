"""Word problems: a story about one running total, told in the words of ``wordings.txt``.

A step of the story gives a sentence of the question, the facts that the chain restates (ES), the
derivation (AS) and the new total.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

_HE = "Tom Ben Sam Max Leo Dan Eli Jack Omar Paul Ravi Hugo".split()
_SHE = "Ann Mia Zoe Eva Kim Lucy Nina Rosa Sara Tina Uma Beth".split()
_PEOPLE = [(name, "he", "his", "him") for name in _HE]
_PEOPLE += [(name, "she", "her", "her") for name in _SHE]
_FOOD = "apples pears eggs cookies candies".split()
_ITEMS = "pens books cards coins stamps shells marbles stickers beads toys roses".split() + _FOOD
_CONTAINERS = "boxes bags baskets packs jars".split()
_SINGULAR = {"candies": "candy", "boxes": "box"}


def _read_wordings() -> dict[str, list[str]]:
    """Section → lines of wordings.txt."""
    sections: dict[str, list[str]] = {}
    text = Path(__file__).with_name("wordings.txt").read_text(encoding="utf-8")
    for line in text.split("\n"):
        if line.startswith("["):
            lines = sections[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


WORDINGS = _read_wordings()


# --- a story -------------------------------------------------------------------------------------
class Step(NamedTuple):
    """One step of a story."""

    sentence: str
    facts: list[str]
    derivation: str = ""  # none for an opening without computation
    value: int = 0  # the new total
    asks: str = "total"  # the kind of question that may follow
    refers_back: bool = False  # the sentence needs the one before ("than that")
    clause: str = ""  # the sentence without its subject, to join another


class Story:
    """Shared by a problem's sentences: people, items, tense, the largest number."""

    def __init__(self, rng: random.Random, steps: int, max_number: int):
        self.rng, self.steps, self.max = rng, steps, max_number
        (name, he, his, him), (friend, *_), (other, *_) = rng.sample(_PEOPLE, 3)
        self.items, self.past = rng.choice(_ITEMS), rng.random() < 0.3
        self.boxes = rng.choice(_CONTAINERS)
        self.words = dict(name=name, he=he, his=his, him=him, friend=friend, other=other)
        self.words |= dict(He=he.capitalize(), His=his.capitalize(), items=self.items)
        self.words |= dict(boxes=self.boxes, box=self.one(self.boxes))

    def one(self, things: str) -> str:
        return _SINGULAR.get(things, things[:-1])

    def count(self, n: int) -> str:
        """ "3 apples", "1 apple" """
        return f"{n} {self.one(self.items) if n == 1 else self.items}"

    def choose(self, section: str) -> list[str]:
        """The parts of one line; only food is eaten."""
        is_food = self.items in _FOOD
        options = [line for line in WORDINGS[section] if is_food or not line.startswith("eats")]
        return self.rng.choice(options).split(" | ")

    def say(self, template: str, **more: object) -> str:
        return template.format(**self.words | more)

    def amounts(self, b: int) -> dict:
        """Ways to say b of the items."""
        n, thing = self.count(b), self.one(self.items) if b == 1 else self.items
        more, some = (f"{b} more", f"{b} more {thing}", n), (f"{b}", f"{b} of them", n, n)
        go, them = "goes" if b == 1 else "go", self.rng.choice(["them", f"the {self.items}"])
        said = dict(b=b, n=n, go=go, them=them, things=thing)
        return said | dict(more=self.rng.choice(more), some=self.rng.choice(some))

    def factors(self) -> tuple[int, int]:
        """Two numbers whose product is at most ``max``."""
        a = self.rng.randint(2, min(9, max(2, self.max // 2)))
        return a, self.rng.randint(2, min(9, self.max // a))

    def derive(self, a: int, sign: str, b: int, has: str = "{he} has") -> tuple[str, int]:
        """The derivation "she has 3 * 4 = 12 apples", and its result."""
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        return f"{self.say(has)} {a} {sign} {b} = {self.count(result)}", result

    def refers(self, sentence: str) -> bool:
        """Does a sentence not name the items, so that nothing else may stand before it?"""
        return self.items not in sentence and self.one(self.items) not in sentence


def _dollars(n: int) -> str:
    return "1 dollar" if n == 1 else f"{n} dollars"


# --- openings ------------------------------------------------------------------------------------
def _has(s: Story) -> Step:
    """ "Tom has 3 pens.": the first event computes with it."""
    value = s.rng.randint(1, s.max)
    present, past = (s.say(text, n=s.count(value)) for text in s.choose("has"))
    fact = s.say("{name} has {n}", n=s.count(value))
    return Step(past if s.past else present, [fact], value=value, clause="has")


def _groups(s: Story) -> Step:
    a, b = s.factors()
    if s.steps == 1 and s.rng.random() < 0.4:  # later steps need to know whose they are
        [sentence], facts = s.choose("nobodys groups"), ["there are {a} {boxes}"]
        has, asks = "there are", "there"
    else:
        [sentence], facts = s.choose("groups"), ["{name} has {a} {boxes}"]
        has, asks = "{he} has", "gain"
    facts += ["with {b} {items} in each"]
    sentence, *facts = (s.say(text, a=a, b=b) for text in (sentence, *facts))
    return Step(sentence, facts, *s.derive(a, "*", b, has), asks)


def _works(s: Story) -> Step:
    a, b = s.factors()
    sentence = s.say(*s.choose("work"), a=a, b=b)
    facts = [s.say(f"{{name}} picks {a} {{items}} an hour"), s.say(f"{{he}} works {b} hours")]
    return Step(sentence, facts, *s.derive(a, "*", b), "gain")


def _buys_with_change(s: Story) -> Step:
    price = s.rng.randint(1, s.max - 1)
    money = price + s.rng.randint(1, s.max - price)
    sentence = s.say(*s.choose("change"), money=_dollars(money), price=_dollars(price))
    facts = [s.say(f"{{name}} has {_dollars(money)}"), f"the hat costs {_dollars(price)}"]
    return Step(sentence, facts, *s.derive(money, "-", price, "{he} gets"))


# --- events --------------------------------------------------------------------------------------
Event = Callable[[Story, int], Step | None]


def _random_change(s: Story, value: int, sign: str) -> dict:
    """What can be said of a change of the total; nothing if there is no room for one."""
    most = s.max - value if sign == "+" else value - 1
    return s.amounts(s.rng.randint(1, most)) if most >= 1 else {}


def _change(s: Story, value: int, sign: str, clauses: str, sentences: str) -> Step | None:
    """Adds b things to the total (+) or takes them from it (-)."""
    if not (said := _random_change(s, value, sign)):
        return None
    derivation, result = s.derive(value, sign, said["b"])
    derivation += " left" if sign == "-" else ""
    asks, clause = "gain" if sign == "+" else "loss", ""
    if s.rng.random() < 0.7:
        present, past = s.choose(clauses)
        plain = said | dict(more=said["n"], some=said["n"])
        fact = s.say(f"{{he}} {present}", **plain)
        clause = s.say(past if s.past else present, **said)
        sentence = s.say(s.rng.choice(["{He}", "{name}", "Then {he}"])) + f" {clause}."
    else:
        present, past, fact = (s.say(text, **said) for text in s.choose(sentences))
        sentence = past if s.past else present
    return Step(sentence, [fact], derivation, result, asks, s.refers(sentence), clause)


def _compared(s: Story, value: int, sign: str, more: str) -> Step | None:
    """ "By evening he has 3 more than before." """
    if not (said := _random_change(s, value, sign)):
        return None
    present, past = (s.say(text, **said) for text in s.choose(more))
    fact = s.say(f"{{he}} has {{b}} {more} than before", **said)
    derived = s.derive(value, sign, said["b"])
    return Step(past if s.past else present, [fact], *derived, "total", True)


def _halves(s: Story, value: int) -> Step | None:
    if value % 2:
        return None
    said, (present, past) = s.amounts(2), s.choose("halves")
    clause = s.say(past if s.past else present, **said)
    fact = s.say(f"{{he}} {present}", **said | dict(them="them"))
    derivation, result = s.derive(value, "/", 2)
    sentence = s.say(f"{{He}} {clause}.")
    return Step(sentence, [fact], f"{derivation} left", result, "loss", s.refers(sentence), clause)


def _times(s: Story, value: int) -> Step | None:
    k = s.rng.choice([2, 2, 3])
    if k * value > s.max or value > 20:
        return None
    times = {2: "twice", 3: "three times"}[k]
    present, past = (s.say(text, times=times) for text in s.choose("times"))
    fact = s.say("later {he} has {times} as many", times=times)
    return Step(past if s.past else present, [fact], *s.derive(value, "*", k), refers_back=True)


def _divisors(value: int) -> list[int]:
    return [k for k in range(2, 10) if value % k == 0 and value // k <= 9]


def _shares(s: Story, value: int) -> Step | None:
    if not (divisors := [k for k in _divisors(value) if k > 2]):
        return None
    k = s.rng.choice(divisors)
    sentence = s.say(*s.choose("shared"), k=k, others=f"{k - 1} friends", **s.amounts(k))
    fact = s.say("the {items} are shared by {k} people", k=k)
    return Step(sentence, [fact], *s.derive(value, "/", k), "total", s.refers(sentence))


# --- last steps ----------------------------------------------------------------------------------
def _together(s: Story, value: int) -> Step | None:
    if value == s.max:
        return None
    said = s.amounts(s.rng.randint(1, s.max - value))
    sentence, fact, have = (s.say(text, **said) for text in s.choose("together"))
    derived = s.derive(value, "+", said["b"], have)
    return Step(sentence, [fact], *derived, "together", clause=sentence.rstrip("."))


def _each(s: Story, value: int, receiver: str) -> Step | None:
    if not (divisors := _divisors(value)):
        return None
    k = s.rng.choice(divisors)
    sentence, fact, gets = (
        s.say(text, k=k, **s.amounts(k)) for text in s.choose(f"each {receiver}")
    )
    return Step(sentence, [fact], *s.derive(value, "/", k, gets), receiver, s.refers(sentence))


OPENINGS = [_has, _has, _has, _groups, _works, _buys_with_change]
_GAIN = partial(_change, sign="+", clauses="gains", sentences="gain sentences")
_LOSS = partial(_change, sign="-", clauses="losses", sentences="loss sentences")
EVENTS: list[Event] = [_GAIN, _GAIN, _LOSS, _LOSS, _halves, _times, _shares]
EVENTS += [partial(_compared, sign="+", more="more"), partial(_compared, sign="-", more="fewer")]
LAST: list[Event] = [_together, partial(_each, receiver="friend"), partial(_each, receiver="box")]


# --- a problem -----------------------------------------------------------------------------------
def word_problem(
    rng: random.Random, steps: int, max_number: int
) -> tuple[str, list[tuple[str, str]]]:
    """A question with ``steps`` computations, and the pieces of its chain as (role, text)."""
    s = Story(rng, steps, max_number)
    step = rng.choice(OPENINGS)(s)
    sentences, pieces, facts = [step.sentence], [], step.facts
    places = []  # where a distractor may go
    joins = bool(step.clause)  # may a clause join the last sentence?
    if step.derivation:
        pieces += _tell(s, facts, step.derivation, first=True)
        facts, steps = [], steps - 1

    for left in range(steps, 0, -1):
        made = None
        while made is None:
            last = left == 1 and rng.random() < 0.2
            made = rng.choice(LAST if last else EVENTS)(s, step.value)
        step = made
        if joins and step.clause and rng.random() < 0.4:  # "He buys 2 and loses 1."
            joined = rng.choice(["and", "and", "and then"])
            sentences[-1] = f"{sentences[-1][:-1]} {joined} {step.clause}."
            joins = False
        else:
            if not step.refers_back:
                places.append(len(sentences))
            sentences.append(step.sentence)
            joins = bool(step.clause)
        pieces += _tell(s, facts + step.facts, step.derivation, first=not pieces)
        facts = []

    question = s.say(*s.choose(f"asks {step.asks}"))
    if not s.refers(question):
        places.append(len(sentences))
    if places and rng.random() < 0.25:
        n = rng.randint(2, min(max_number, 20))
        sentences.insert(rng.choice(places), s.say(*s.choose("distractors"), n_other=n))
    sentences.append(question)
    pieces.append(("ES", f" The answer is {step.value}."))
    return " ".join(sentences), pieces


def _tell(s: Story, facts: list[str], derivation: str, first: bool) -> list[tuple[str, str]]:
    """One step of the chain: usually one piece of facts, then the derivation."""
    style = s.rng.random()
    if style < 0.12 and not first:  # no ES piece: labels by position are wrong from here on
        return [("AS", f" Then {derivation}.")]
    if style <= 0.85:  # otherwise, a piece for each fact
        facts = [" and ".join(facts).replace(" and with", " with")]
    opening = facts[0][0].upper() + facts[0][1:]  # str.capitalize changes the other letters
    texts = [opening if first else f" {opening}", *(f" {fact}" for fact in facts[1:])]
    return [*(("ES", f"{text},") for text in texts), ("AS", f" so {derivation}.")]
