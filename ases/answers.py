"""Numbers in text: the answer of a chain of thought, as an exact fraction (not in the paper).

A text states its answer after its last "the answer is" or "####", up to the end of that sentence or
line. The statement is one number, perhaps after an "=", with plain words behind it: "$1,005.50",
"-1/2", "18 dollars", "5 + 5 = 10", "**72%**", "\\boxed{\\frac{1}{2}}". Everything else is refused,
for half a number is worse than none: "1e5", "5x", "(1, 2)", "7 million", "at least 7", "2 or 3".
Model output is never evaluated.
"""

import re
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import NamedTuple

from ases.segmentation import LINE_ENDS, SENTENCE_ENDS, is_abbreviation

_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*=[^<>=\n]*\d[^<>=\n]*>>")
# Zero-width characters and marks of direction: copied along with a text, and not seen.
_UNSEEN = "\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_GAP = rf"(?:[^\S\n]|[{_UNSEEN}])+"
_MARK = re.compile(
    rf"(the{_GAP}answer{_GAP}is|####)((?:[\s:*_`{_UNSEEN}]|\$\$|\\[\[(])*)", re.IGNORECASE
)
_LONGEST = 1000  # most characters of a statement or number
# Full-width signs, dashes and spaces to ASCII, one for one.
_PLAIN = str.maketrans(
    "０１２３４５６７８９．，％＝＋－／￥＄−–－‐‑‒\u00a0\u2009\u202f",
    "0123456789.,%=+-/¥$------   ",
)
# The end of a sentence or line. "!" after a digit may be a factorial, and "5 ft. 6 in." goes on.
_END = re.compile(
    rf"[{LINE_ENDS}。！？]|(?<!\d)[{SENTENCE_ENDS}]|[{SENTENCE_ENDS}](?!\d)"
    rf"|(?:[.?](?!(?<=[^\W\d_].)\s{{1,3}}\d)|(?<!\d)(?<!\d )!)"
    rf"(?=[\"'”’)\]}}$*_`{_UNSEEN}]*(?:\s|$))"
)

# --- what a statement may hold -------------------------------------------------------------------
_FRACTION = re.compile(r"\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
# Markup becomes blanks: digits on either side of it are two numbers.
_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\s*\{|[{}*_`\"“”]|\\[()\[\],;!]|\$\$")
# Left of "=" stand sums and names, but no comparison, list, second equation or condition.
_NO_ANSWER = re.compile(
    r"[<>≤≥≠⩽⩾!~:;\\±]|/\s*$|=.*[^\W\d_]|,(?!\d{3})|\b[^\W\d_],"
    r"|\b(?:not|when|where|for|because|given|since|if|with|as|or|and|least|most|than|under|over)\b"
)
_NUMBER = r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:/([0-9]+))?"
_MONEY = "$€£¥₹₩₽¢₱₦₫฿₺₴₪"
_VALUE = re.compile(
    rf"\s*[{_MONEY}]?\s*(?P<sign>[-+]?)\s?[{_MONEY}]?\s*(?P<number>{_NUMBER})"
    rf"\s*(?:[%°]|[{_MONEY}])*(?P<words>(?:,?\s+[a-zA-Z]+(?:['’/-][a-zA-Z]+)*\.?)*)[\s,$']*"
)
# Words that may be part of the number, an operation, a bound, a label or a denial. Short words may
# be variables, unless they are known.
_MEANS_MORE = re.compile(
    r"hal(?:f|ves)|quarters?|(?:third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\w+teenth|\w+tieth"
    r"|hundred|thousand|dozen|score|lakh|crore)(?:th)?s?|\w*illi(?:on|ard)\w*|mil|mille|grand|gross"
    r"|tausend|zero|ones?|two|three|four|five|six|seven|eight|nine|tens?|eleven|twelve|\w+teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|squared|cubed|factorial|times|plus|minus|divided"
    r"|multiplied|root|sqrt|log|sin|cos|tan|mod|power|or|nor|not|never|least|most|minimum|maximum"
    r"|repeating|recurring|binary|octal|hexadecimal|remainder|\w*n['’]t",
    re.IGNORECASE,
)
_SHORT_WORDS = "a an as at by in is it of on per to he she we if so no his her the and are all"
_SHORT_WORDS += " kg mg cm mm km ml lb ft oz hr min mph"


class Stated(NamedTuple):
    """The answer that a text states."""

    number: Fraction
    text: str  # up to the statement, which is now "The answer is N."
    dropped: bool  # whether ``text`` leaves out words after the statement


def find_answer(text: str) -> Stated | None:
    """The last statement, without GSM8K's ``<<3*4=12>>`` notes; None if it states no number."""
    # A digit beside a note is no part of the next one.
    text = _CALCULATOR_NOTE.sub("\ue000", text).strip()
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    mark, plain, start = marks[-1], text.translate(_PLAIN), marks[-1].end()
    stop = end = len(text)
    for match in _END.finditer(plain, start):
        if not is_abbreviation(plain, match.end()):
            stop, end = match.span()
            break
    number = stated_number(plain[start:stop]) if stop - start <= _LONGEST else None
    # "1. Add" is a list item or a heading; "- 5" may be an item.
    listed = mark[1] == "####" or "\n" in mark[2]
    item = plain[stop:end] == "." and plain[end:].split("\n")[0].strip("\ue000 *_`$])}")
    if number is None or (listed and item) or ("\n" in mark[2] and plain[start:].startswith("- ")):
        return None
    chain = text[: mark.start()].rstrip("*_`\ue000")
    if mark[1] == "####" and chain.strip():
        chain = chain.rstrip() + "\n"
    whole = f"{chain}The answer is {number}.".replace("\ue000", "")
    return Stated(to_number(number), whole, any(c.isalnum() for c in text[end:]))


def stated_number(statement: str) -> str | None:
    """The number of a statement, as text; None if it states none.

    >>> stated_number("2 pens + 3 pens = 5 pens"), stated_number("-$1,005.50 a day")
    ('5', '-1,005.50')
    """
    statement = re.sub(rf"[{_UNSEEN}]|^\ue000", "", statement)
    statement = re.sub(r"\\(?=[$%])", "", statement)
    statement = re.sub(r"\\(?:times|cdot|div)\b", "*", statement)
    statement = _MARKUP.sub(" ", _FRACTION.sub(r" \1/\2", statement))
    left, equals, value = statement.rpartition("=")
    match = _VALUE.fullmatch(value)
    if match is None or (equals and _NO_ANSWER.search(left)):
        return None
    for word in match["words"].replace(",", " ").split():
        short = len(word.strip(".")) < 3 and word.lower().strip(".") not in _SHORT_WORDS.split()
        if short or any(_MEANS_MORE.fullmatch(part) for part in re.split("[./-]", word)):
            return None
    number = ("-" if match["sign"] == "-" else "") + match["number"]
    return None if to_number(number) is None else number


def to_number(text: str) -> Fraction | None:
    """ "1,005.00", "-3", "1/2" → the exact number; None for "1,00,000" or "1/0"."""
    match = re.fullmatch(f"(-?){_NUMBER}", text) if len(text) <= _LONGEST else None
    if match is None or int(match[3] or 1) == 0:
        return None
    return Fraction(match[1] + match[2].replace(",", "")) / int(match[3] or 1)


def plain_number(number: Fraction) -> str:
    """ "51", "-0.5"; "1/3" where no decimal is exact."""
    try:
        exact = Context(prec=2 * _LONGEST, traps=[Inexact])
        return f"{exact.divide(Decimal(number.numerator), Decimal(number.denominator)):f}"
    except Inexact:
        return str(number)


def parse_answer(text: str) -> Fraction | None:
    """The number that a text states as its answer, if any."""
    stated = find_answer(text)
    return None if stated is None else stated.number
