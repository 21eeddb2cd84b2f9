"""Numbers in text: what a chain of thought answers, as an exact fraction, by one rule [ours].

The statement is what stands behind the last "the answer is" or "####", up to the end of its
sentence or line. It states a number if, behind its last "=", it holds exactly one, with its sign,
and beside it only words, units, currency signs, quotes, brackets around words, and emphasis. So
"$1,005.50", "-1/2", "18 dollars" and "5 + 5 = 10" are read; "1e5", "2½", "5x", "(1, 2)", "3 hours
and 20 minutes" and "7 million" are not: a part of a number is worse than none. References and
predictions are read alike, and nothing a model wrote is ever evaluated.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from ases.segmentation import is_abbreviation

_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*>>")
_MARK = re.compile(r"(the answer is|####)[\s:*_`]*", re.IGNORECASE)
_LONGEST = 1000  # characters of a statement, or of a number
# Full-width signs and the many dashes and blanks as ASCII, one for one.
_PLAIN = str.maketrans(
    "０１２３４５６７８９．，％＝＋－（）／⁄−–—‐‑‒―﹣\u00a0\u2009\u202f",
    "0123456789.,%=+-()//--------   ",
)
# The end of a sentence or line. "!" behind a digit may be a factorial.
_END = re.compile(r"[\n\r\v\f\x85\u2028\u2029。！？]|(?:[.?]|(?<!\d)!)(?=[\"'”’)\]$*_`]*(?:\s|$))")

# What is TeX or emphasis, in this order. A fraction's brackets keep "2\frac12" two numbers.
_MARKUP = [
    (r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))", r"(\1\2/\3\4)"),
    (r"\\(?:boxed|text|textbf|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1"),
    (r"\\([$%])", r"\1"),
    (r"\\!|\\[()\[\]]", ""),
    (r"\{,\}", ","),
    (r"\\[,;: ]", " "),
    (r"(?<!\S)[*_`]++(?=\S)|(?<=\S)[*_`]++(?![^\s,)])", ""),
    (r"^\s*(?:[Mm]inus|[Nn]egative)\s", "-"),
]
# The left side of an equation that says "<=" or "x = 2, y =".
_NO_EQUATION = re.compile(r"[<>!~:≤≥≠]$|=.*(?:[,;&]|\band|\bor)\s*[^\W\d_]\s*$")

# Words that are part of a number, a second one, an operation or a denial, and units of few letters:
# other letters are variables.
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*\.?")
_MEANS_MORE = re.compile(
    r"half|halves|(third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth)s?|zero|one|two|three"
    r"|four|five|six|seven|eight|nine|ten|eleven|twelve|.+teen|(twen|thir|for|fif|six|seven|eigh|nine"
    r")ty|(hundred|thousand|dozen|lakh|crore)(th)?s?|.*illi(on|ard).*|mil|mio|mln|mn|mrd|bn|tn|тыс.*"
    r"|млн|млрд|милли.*|.*[Ͱ-Ͽ半十百千万亿兆億萬만억].*|squared|cubed|root|sqrt|log|ln|sin|cos|tan|pi"
    r"|mod|plus|minus|negative|divided|twice|double|triple|infinity|not|.*n[’']t",
    re.IGNORECASE,
)
_UNITS = "g h l s L m kg mg ml mL cl cm mm km ft in yd mi lb lbs oz hr hrs sec min mph am pm st nd"
_UNITS += " rd th day"

# A value, each of its words replaced by "w".
_MONEY = "$€£¥₹₩₽¢"
_BESIDE = (
    rf"(?:w|[\s,\"'“”‘’«»「」°%{_MONEY}]|(?<=w)\.|(?<=[w\d])[-/](?=w)|\([w ,]*\)|\[[w ,]*\])*+"
)
_NUMBER = (
    r"((?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
    r"|(?<![\w.])\.[0-9]+)(?:/([0-9]+))?"
)
_VALUE = re.compile(
    rf"(?P<before>{_BESIDE})(?<!w)(?P<sign>[-+]?)(?P<gap>[\s{_MONEY}]*)"
    rf"(?:(?P<number>{_NUMBER})|\([{_MONEY}]?(?P<inside>{_NUMBER})\)){_BESIDE}"
)


class Stated(NamedTuple):
    """What a text states as its answer."""

    number: Fraction
    text: str  # the text with "The answer is N." for its statement
    dropped: bool  # whether text follows the statement, which ``text`` leaves out


def find_answer(text: str) -> Stated | None:
    """The last statement of a text, without GSM8K's ``<<3*4=12>>`` notes; None if it states no
    number."""
    text = _CALCULATOR_NOTE.sub("", text).strip()
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    mark = marks[-1]
    plain, start = text.translate(_PLAIN), mark.end()
    ends = _END.finditer(plain, start, start + _LONGEST)
    stop, end = next(
        (e.span() for e in ends if not is_abbreviation(plain, e.end())), [len(text)] * 2
    )
    if stop - start > _LONGEST or (number := stated_number(plain[start:stop])) is None:
        return None
    chain = text[: mark.start()].rstrip("*_`")
    if mark[1] == "####" and chain.strip():
        chain = chain.rstrip() + "\n"
    text, rest = f"{chain}The answer is {number}.", text[end:]
    return Stated(to_number(number), text, any(c.isalnum() for c in rest))


def stated_number(statement: str) -> str | None:
    """The one number of a statement, as text; None if it states none.

    >>> stated_number("2 pens + 3 pens = 5 pens"), stated_number("-$1,005.50 a day")
    ('5', '-1,005.50')
    """
    left, _, value = statement.rpartition("=")
    if _NO_EQUATION.search(left):
        return None
    for pattern, plain in _MARKUP:
        value = re.sub(pattern, plain, value)
    found = _VALUE.fullmatch(_WORD.sub(_plain_or_not, value))
    if found is None:
        return None
    before, sign, number = found["before"], found["sign"], found["number"] or found["inside"]
    if sign and "w" in before and (not before[-1].isspace() or found["gap"].strip(_MONEY)):
        return None  # "in all - 3"
    if found["inside"] and not sign and "/" not in number:
        return None
    number = sign.strip("+") + number
    return None if to_number(number) is None else number


def _plain_or_not(word: re.Match) -> str:
    """A word beside a number as "w", with its full stop; as "?" if it may mean more."""
    text, before = word[0].rstrip("."), word.string[: word.start()]
    letters = re.sub("['’²³]", "", text)
    variable = len(letters) <= (3 if before[-1:].isdigit() else 1) and before[-1:] != "°"
    if letters == "a":  # the article
        variable = not re.match(r"\s+[^\W\d_]{2}", word.string[word.end() :])
    elif letters.lower() == letters.upper():  # a script without capitals has no variables
        variable = False
    elif letters in _UNITS.split() and re.search(r"\d", before):
        variable = letters == "m" and any(sign in before for sign in _MONEY)  # a million
    if variable or not letters.isalpha() or _MEANS_MORE.fullmatch(text):
        return "?"
    return "w" + word[0][len(text) :]


def to_number(text: str) -> Fraction | None:
    """ "1,005.00", "10 000", "-3", "1/2" → the exact number; None if it is none (a zero denominator
    too).

    >>> to_number("1,005.50"), to_number("1,00,000")
    (Fraction(2011, 2), None)
    """
    found = re.fullmatch(f"(-?){_NUMBER}", text) if len(text) <= _LONGEST else None
    if found is None or int(found[3] or 1) == 0:
        return None
    return Fraction(found[1] + re.sub("[, ]", "", found[2])) / int(found[3] or 1)


def parse_answer(text: str) -> Fraction | None:
    """The number that a chain states as its answer; None if it states none.

    >>> parse_answer("so he pays $1,005.00 in all. The answer is $1,005.00."), parse_answer("so 5.")
    (Fraction(1005, 1), None)
    """
    return (found := find_answer(text)) and found.number


def normalise_answer(answer: str) -> str | None:
    """Bring an answer to end with ``The answer is N.``; None where ``parse_answer`` is.

    >>> normalise_answer("He has 3*4 = <<3*4=12>>12 apples.\\n#### 12")
    'He has 3*4 = 12 apples.\\nThe answer is 12.'
    """
    return (found := find_answer(answer)) and found.text


def gsm8k_strict(text: str) -> str | None:
    """GSM8K's own rule as lm-eval applies it, on "The answer is N." too: what follows "#### ",
    commas and a final full stop dropped, as a string."""
    match = re.search(r"#### (-?[0-9.,]+)", text.replace("The answer is ", "#### "))
    return match[1].replace(",", "").removesuffix(".") if match else None
