"""Numbers in text: what a chain of thought answers, as an exact fraction.

A number is read whole or not at all. "10 000", "$1,005.50", "1/2" and "5 + 5 = 10" are read; "1e5",
"10^6", "2½", "1 1/2", "1.234.567", "3:45" and "3*4" are refused, since reading a part of them would
be wrong. References and predictions are read by the same rules, and nothing a model wrote is ever
evaluated [ours].
"""

import re
from fractions import Fraction

# Everything that can be part of a number, in one go: digits, and marks between digits. What is
# matched so is then understood as a whole (``to_number``) or refused as a whole.
_SPACE = "[ \u00a0\u2009\u202f]"  # blanks that group digits, thin ones among them
_NUMERAL = (
    r"(?:[0-9]|\.(?=[0-9]))"
    rf"(?:[0-9]|[.,:/](?=[0-9])|{_SPACE}(?=[0-9]{{3}}(?![0-9]))|[ -](?=[0-9]+/[0-9])"
    r"|[eE][-+]?(?=[0-9])|\s?\^\s?[-{(]?(?=[0-9])|\s?[¼-¾⅐-⅞])*+"
)
# A numeral as an amount, "-$1,005.50". The sign and the numeral are its two groups; "5-2" holds 5
# and 2, not -2.
_AMOUNT = rf"(?:(?<![\w)])(-)(?=[$€£¥0-9.]))?(?:[$€£¥]\s?)?({_NUMERAL})"
_FIRST_AMOUNT = re.compile(_AMOUNT)
# "5 + 5 =", the left side of an equation, and what shows that an expression goes on. "*+" never
# gives back what it has matched: without it a long expression that is no equation would take
# exponential time.
_LEFT_SIDE = re.compile(rf"\s*+{_AMOUNT}\s?%?(?:\s*+[-+*/×÷x]\s*+{_AMOUNT})*+\s*+=")
_GOES_ON = re.compile(r"\s*[+*×÷]\s*[0-9(]|\s*/\s*[0-9(]|\s[-]\s[0-9(]")

_ANSWER_MARK = re.compile(r"(?:####|the answer is)[\s:]*", re.IGNORECASE)
_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*>>")
_TEX_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_PLAIN = {0x2212: "-", 0x2044: "/"} | {0xFF10 + digit: str(digit) for digit in range(10)}


def plain_signs(text: str) -> str:
    """Full-width digits, the typographic minus and the fraction slash as ASCII; TeX's
    ``\\frac{a}{b}`` as a/b.

    >>> plain_signs("−５, 3⁄4, \\\\frac{1}{2}, 1{,}000")
    '-5, 3/4, 1/2, 1,000'
    """
    return _TEX_FRACTION.sub(r"\1/\2", text.translate(_PLAIN)).replace("{,}", ",")


def to_number(text: str) -> Fraction | None:
    """ "1,005.00", "10 000", "-3", "1/2", "$72" → the exact number; None if it is none (a zero
    denominator too).

    >>> to_number("$1,005.50"), to_number("1,00,000")
    (Fraction(2011, 2), None)
    """
    text = text.strip().replace("$", "").rstrip(".")
    grouped = rf"[0-9]{{1,3}}(?:(?:,[0-9]{{3}})+|(?:{_SPACE}[0-9]{{3}})+)"
    if len(text) > 1000 or not re.fullmatch(
        rf"-?(?:(?:{grouped}|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:/[0-9]+)?", text
    ):
        return None
    whole, _, below = re.sub(rf",|{_SPACE}", "", text).partition("/")
    if below and int(below) == 0:
        return None
    return Fraction(whole) / int(below or 1)


def stated_number(statement: str) -> str | None:
    """The number that a statement begins with, as text; an equation's is its right-hand side. None
    if there is none.

    Args:
        statement: the text after "the answer is", with ``plain_signs``.
    """
    match = _FIRST_AMOUNT.search(statement)
    if match is None:
        return None
    start = match.start()
    while left_side := _LEFT_SIDE.match(statement, start):
        start = left_side.end()
        match = re.compile(rf"\s*{_AMOUNT}").match(statement, start)
    if match is None or _GOES_ON.match(statement, match.end()):
        return None
    number = (match[1] or "") + match[2]
    return None if to_number(number) is None else number


def parse_answer(text: str) -> Fraction | None:
    """The number that a chain states as its answer: after its last "the answer is" or "####".

    None where there is no statement, or none with a number that can be read: a number somewhere in
    a text is no answer [ours].

    >>> parse_answer("so he pays $1,005.00 in all. The answer is $1,005.00."), parse_answer("so 5.")
    (Fraction(1005, 1), None)
    >>> parse_answer("The answer is 5 + 5 = 10."), parse_answer("The answer is 1e5.")
    (Fraction(10, 1), None)
    """
    text = plain_signs(text)
    marks = list(_ANSWER_MARK.finditer(text))
    number = stated_number(text[marks[-1].end() :]) if marks else None
    return None if number is None else to_number(number)


def normalise_answer(answer: str) -> str | None:
    """Bring an answer to end with ``The answer is N.``; None if it states no number that can be
    read.

    N is GSM8K's ``#### N``, or else what follows the last "the answer is"; the text after it goes,
    and so do GSM8K's ``<<3*4=12>>`` notes.

    >>> normalise_answer("He has 3*4 = <<3*4=12>>12 apples.\\n#### 12")
    'He has 3*4 = 12 apples.\\nThe answer is 12.'
    """
    answer = _CALCULATOR_NOTE.sub("", answer).strip()
    head, mark, tail = answer.rpartition("####")
    number = stated_number(plain_signs(tail)) if mark and len(tail) < 100 else None
    if number is not None:
        chain = head.rstrip()
    else:
        statements = list(re.finditer(r"the answer is", answer, re.IGNORECASE))
        if not statements:
            return None
        number = stated_number(plain_signs(answer[statements[-1].end() :]))
        chain = answer[: statements[-1].start()]
    if number is None:
        return None
    joint = "\n" if chain and not chain[-1].isspace() and mark else ""
    return f"{chain}{joint}The answer is {number}."


def gsm8k_strict(text: str) -> str | None:
    """GSM8K's own rule as lm-eval applies it: what follows "#### ", commas and a final full stop
    dropped, as a string.

    It is read from "The answer is N." too, which is how references end here.
    """
    match = re.search(r"#### (-?[0-9.,]+)", text.replace("The answer is ", "#### "))
    return match[1].replace(",", "").removesuffix(".") if match else None
