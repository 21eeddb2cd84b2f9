"""Word problems: a sequence of schemas on one running total.

A schema makes one step of a story: a sentence of the question, the facts that the chain restates
(ES), the derivation (AS) and the new value. It returns None if the numbers do not fit.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

_HE = "Tom Ben Sam Max Leo Dan Eli Jack Omar Paul Ravi Hugo".split()
_SHE = "Ann Mia Zoe Eva Kim Lucy Nina Rosa Sara Tina Uma Beth".split()
_PEOPLE = [(name, "he", "his") for name in _HE] + [(name, "she", "her") for name in _SHE]
_ITEMS = "apples pears eggs pens books cards coins stamps shells marbles stickers"
_ITEMS += " cookies candies beads toys roses"
_CONTAINERS = "boxes bags baskets packs jars"


class Step(NamedTuple):
    """One step of a story; ``refers_back``: the sentence needs the one before ("than that")."""

    sentence: str
    facts: list[str]
    derivation: str
    value: int
    refers_back: bool = False


class Story:
    """Shared by a problem's sentences: people, items, the largest number allowed."""

    def __init__(self, rng: random.Random, max_number: int):
        self.rng, self.max = rng, max_number
        (self.name, self.he, self.his), (self.friend, _, _) = rng.sample(_PEOPLE, 2)
        self.items = rng.choice(_ITEMS.split())
        self.container = rng.choice(_CONTAINERS.split())
        self.He = self.he.capitalize()

    def say(self, *wordings: str) -> str:
        return self.rng.choice(wordings)

    def count(self, n: int) -> str:
        """ "3 apples", "1 apple" """
        one = "candy" if self.items == "candies" else self.items[:-1]
        return f"{n} {one if n == 1 else self.items}"

    def factors(self) -> tuple[int, int]:
        """Two numbers whose product is at most ``max``."""
        a = self.rng.randint(2, min(9, max(2, self.max // 2)))
        return a, self.rng.randint(2, min(9, self.max // a))

    def derive(self, a: int, sign: str, b: int, verb: str = "has") -> tuple[str, int]:
        """The derivation "she has 3 * 4 = 12 apples", and its result."""
        result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
        return f"{self.he} {verb} {a} {sign} {b} = {self.count(result)}", result


def _dollars(n: int) -> str:
    return "1 dollar" if n == 1 else f"{n} dollars"


# --- opening schemas -----------------------------------------------------------------------------


def _groups_of(s: Story, _: int) -> Step:
    a, b = s.factors()
    sentence = s.say(
        f"{s.name} has {a} {s.container} with {b} {s.items} in each.",
        f"There are {b} {s.items} in each of {s.name}'s {a} {s.container}.",
    )
    facts = [f"{s.name} has {a} {s.container}", f"with {b} {s.items} in each"]
    return Step(sentence, facts, *s.derive(a, "*", b))


def _has_and_buys(s: Story, _: int) -> Step:
    a = s.rng.randint(1, s.max - 1)
    b = s.rng.randint(1, s.max - a)
    sentence = s.say(
        f"{s.name} has {s.count(a)} and buys {b} more.",
        f"{s.name} had {s.count(a)} when {s.he} got {b} more.",
    )
    facts = [f"{s.name} has {s.count(a)}", f"{s.he} gets {b} more"]
    return Step(sentence, facts, *s.derive(a, "+", b))


def _works(s: Story, _: int) -> Step:
    a, b = s.factors()
    sentence = s.say(
        f"{s.name} picks {a} {s.items} an hour and works for {b} hours.",
        f"In each of {b} hours {s.name} picks {a} {s.items}.",
    )
    facts = [f"{s.name} picks {a} {s.items} an hour", f"{s.he} works {b} hours"]
    return Step(sentence, facts, *s.derive(a, "*", b))


def _buys_with_change(s: Story, _: int) -> Step:
    price = s.rng.randint(1, s.max - 1)
    money = price + s.rng.randint(1, s.max - price)
    sentence = s.say(
        f"{s.name} has {_dollars(money)} and pays {_dollars(price)} for a hat. "
        f"For each dollar of change {s.he} gets one of the {s.items}.",
        f"A hat costs {_dollars(price)} and {s.name} has {_dollars(money)}. "
        f"After buying it {s.he} trades each dollar for one of the {s.items}.",
    )
    facts = [f"{s.name} has {_dollars(money)}", f"the hat costs {_dollars(price)}"]
    return Step(sentence, facts, *s.derive(money, "-", price, "gets"))


# --- later schemas -------------------------------------------------------------------------------

Event = Callable[[Story, int], Step | None]


def _change(sign: str, fact: str, *wordings: str) -> Event:
    """A schema that adds b things to the quantity (+) or takes them from it (-)."""

    def event(s: Story, value: int) -> Step | None:
        most = s.max - value if sign == "+" else value - 1
        if most < 1:
            return None
        b = s.rng.randint(1, most)
        n, back = s.count(b), fact.endswith("than before")
        words = vars(s) | {"b": b, "n": n, "thing": n.split()[1], "go": "goes" if b == 1 else "go"}
        derivation, result = s.derive(value, sign, b)
        left = " left" if sign == "-" and not back else ""
        sentence = s.say(*wordings).format(**words)
        return Step(sentence, [fact.format(**words)], derivation + left, result, back)

    return event


def _doubles(s: Story, value: int) -> Step | None:
    times = s.rng.choice([2, 2, 3])
    if times * value > s.max or value > 20:
        return None
    word = {2: "twice", 3: "three times"}[times]
    sentence = s.say(
        f"A week later {s.he} has {word} as many.",
        f"After a week the number of {s.items} is {word} as large.",
    )
    fact = f"later {s.he} has {word} as many"
    return Step(sentence, [fact], *s.derive(value, "*", times), refers_back=True)


def _shares(s: Story, value: int) -> Step | None:
    divisors = [k for k in range(2, 10) if value % k == 0 and value // k <= 9]
    if not divisors:
        return None
    k = s.rng.choice(divisors)
    if k == 2:
        sentence, fact = f"{s.He} keeps half of the {s.items}.", f"{s.he} keeps half"
    else:
        sentence = s.say(
            f"{s.He} shares the {s.items} equally with friends, so that {k} people have the same.",
            f"The {s.items} are split evenly among {s.name} and {k - 1} friends.",
        )
        fact = f"the {s.items} are shared by {k} people"
    return Step(sentence, [fact], *s.derive(value, "/", k))


OPENINGS = [_groups_of, _has_and_buys, _works, _buys_with_change]
EVENTS = [
    _change(
        "-", "{friend} gets {n}", "{He} gives {n} to {friend}.", "{friend} gets {b} of the {items}."
    ),
    _change("-", "{he} loses {n}", "{He} loses {n}.", "Then {n} {go} missing."),
    _change("+", "{he} finds {n}", "{He} finds {b} more {thing}.", "Then {he} finds {n}."),
    _change(
        "+", "{he} is given {n}", "For {his} birthday {he} gets {n}.", "{friend} brings {name} {n}."
    ),
    _doubles,
    _shares,
    _change(
        "+",
        "{he} has {b} more than before",
        "In the end {he} has {n} more than that.",
        "By evening {he} has {n} more than before.",
    ),
    _change(
        "-",
        "{he} has {b} fewer than before",
        "By night {he} has {n} fewer.",
        "The next day {he} has {n} fewer than that.",
    ),
]


# --- a problem -----------------------------------------------------------------------------------


def word_problem(
    rng: random.Random, steps: int, max_number: int
) -> tuple[str, list[tuple[str, str]]]:
    """A question, and the pieces of its chain as (role, text)."""
    story = Story(rng, max_number)
    sentences, pieces, value = [], [], 0
    places = []  # where a distractor may go
    for i in range(steps):
        step = None
        while step is None:
            step = rng.choice(EVENTS if i else OPENINGS)(story, value)
        if i and not step.refers_back:
            places.append(len(sentences))
        sentences.append(step.sentence)
        pieces += _tell(story, step, first=i == 0)
        value = step.value
    places.append(len(sentences))

    if rng.random() < 0.3:
        sentences.insert(rng.choice(places), _distractor(story))
    asked = story.say(f"{story.name} have now", f"{story.he} end up with")
    sentences.append(f"How many {story.items} does {asked}?")
    pieces.append(("ES", f" The answer is {value}."))
    return " ".join(sentences), pieces


def _tell(s: Story, step: Step, first: bool) -> list[tuple[str, str]]:
    """One step of the chain: usually one piece of facts, then the derivation."""
    facts, style = step.facts, s.rng.random()
    if style < 0.12 and not first:  # no ES piece: labels by position are wrong from here on
        return [("AS", f" Then {step.derivation}.")]
    if style <= 0.85:  # otherwise, a piece for each fact
        facts = [" and ".join(facts).replace(" and with", " with")]
    opening = facts[0][0].upper() + facts[0][1:]  # str.capitalize changes the other letters
    texts = [opening if first else f" {opening}", *(f" {fact}" for fact in facts[1:])]
    return [*(("ES", f"{text},") for text in texts), ("AS", f" so {step.derivation}.")]


def _distractor(s: Story) -> str:
    n = s.rng.randint(2, min(s.max, 20))
    return s.say(
        f"{s.friend} is {n} years old.",
        f"It is {n} miles to the town.",
        f"There are {n} trees near the house.",
        f"{s.name} has {n} cousins.",
    )
