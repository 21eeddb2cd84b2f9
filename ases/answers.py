"""Numbers in text: the answer of a chain of thought, as an exact fraction [ours].

The statement is the text after the last "the answer is" or "####", up to the end of its sentence or
line. It states a number if, after its last "=", it holds exactly one, with only words, units,
currency signs, quotes, brackets around words, and emphasis beside it: "$1,005.50", "-1/2",
"18 dollars" and "5 + 5 = 10", but not "1e5", "2½", "5x", "(1, 2)", "3 hours and 20 minutes" or
"7 million". Half a number is worse than none. Model output is never evaluated.
"""

import re
import unicodedata
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
_GONE = "\ue000"  # replaces markup; digits on either side of it are two numbers
# Full-width signs, dashes and spaces to ASCII, one for one.
_PLAIN = str.maketrans(
    "０１２３４５６７８９．，％＝＋－（）／⁄￥＄−–‐‑‒﹣\u00a0\u2009\u202f",
    "0123456789.,%=+-()//¥$------   ",
)
# The end of a sentence or line. "!" after a digit may be a factorial. The full stop of a short word
# before a number ("5 ft. 6 in.") is no end.
_END = re.compile(
    rf"[{LINE_ENDS}。！？]|(?<!\d)[{SENTENCE_ENDS}]|[{SENTENCE_ENDS}](?!\d)"
    rf"|(?:[.?]|(?<!\d)(?<!\d )!)(?=[\"'”’)\]$*_`{_UNSEEN}]*(?:\s|$))"
)
_UNIT_BEFORE = re.compile(r"(?<![^\W\d_])[^\W\d_]{1,4}\.$")
_NUMBER_BEHIND = re.compile(r"\s{1,3}\d")

# TeX and emphasis, in this order. A fraction's brackets keep "2\frac12" two numbers.
_TEXT = (r"\\(?:boxed|text|textbf|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", rf"{_GONE}\1{_GONE}")
_MARKUP = [
    (r"(?<=\d)(?:\{,\}|,\\!)(?=\d)", ","),
    (r"(?<=\d)\\,(?=\d{3}(?!\d))", " "),
    (r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))", r"(\1\2/\3\4)"),
    *(_TEXT, _TEXT),  # twice, for nesting
    (r"\\([$%])", r"\1"),
    (r"\\[!,;: ]|\\[()\[\]]", _GONE),
    (r"(?<!\S)[*_`]++(?=\S)|(?<=\S)[*_`]++(?![^\s,)])", _GONE),
    (rf"^[\s{_GONE}]*(?:[Mm]inus|[Nn]egative)\s", "-"),
]
# Bounds: "at least 7", "more than 7", "7 or less".
_BOUND = re.compile(
    r"\b(?:least|most|than|under|over|above|below|beyond|exceed(?:s|ing)?|up to|minimum|maximum)"
    r"\b\D*\d|\d\D*\b(?:(?:or|and) (?:more|less|fewer|over|under|above|below|up)|at (?:least|most))"
    r"\b",
    re.IGNORECASE,
)
# Text before the last "=" that rules out an answer: "x <=", "not =", "8 when x =", "2, y =".
_NO_ANSWER = re.compile(
    r"[<>≤≥≠⩽⩾]|(?:[~:/±;]|\\[a-z]+)\s*$|!$|\b[^\W\d_]\W*,\W*[^\W\d_]\W*$|n[’']t\b"
    r"|\b(?:not|when|where|for|because|given|since|if|with|as|or|and)\b"
    r"|=(?:.*[,;&、\\$]|.*\d\s*[^\W\d_]\W*$|.*\d\s+[A-Z])"
)

# Words that are part of a number, a second number, an operation, a label or a denial. Other
# languages have more. Letters that form no word are variables, unless they are a unit.
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*\.?")
_MEANS_MORE = re.compile(
    r"half|halves"
    r"|(third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|.+teenth|.+tieth)s?"
    r"|zero|ones?|two|three|four|five|six|seven|eight|nine|tens?|eleven|twelve|.+teen"
    r"|(twen|thir|for|fif|six|seven|eigh|nine)ty|(hundred|thousand|dozen|lakh|crore)(th)?s?"
    r"|.*illi(on|ard|ón).*|mil|mio|mln|mn|mrd|mld|bn|bil|tn|grand|thou|doz|score|gross|mille"
    r"|milh.*|mil[ai].*|tausend|tsd|hundert|dutzend|docenas?|douzaines?|тыс.*|млн|млрд|милли.*"
    r"|минус|.*[Ͱ-Ͽ半十百千万亿兆億萬仟佰拾又分根方阶折打負负零만억천백조].*|(quadruple|square|cube)d|root|sqrt|logarithm|log"
    r"|ln|exp|(arc)?(sin|cos|tan)h?|(co)?sine|tangent|csc|cot|pi|mod|plus|minus|negative|menos"
    r"|moins|meno|divided|twice|double|triple|infinity|factorial|reciprocal|inverse|absolute"
    r"|repeating|recurring|binary|octal|hexadecimal|step|part|case|example|method|option|section"
    r"|equation|problem|question|phase|stage|solution|not|never|neither|isnt|nicht|.*n[’']t",
    re.IGNORECASE,
)
_UNITS = "g h l s L m kg mg ml mL cl cm mm km ft in yd mi lb lbs oz hr hrs sec min mph".split()
_UNITS += "am pm st nd rd th day".split()
_SHORT_WORDS = "a of in to an at on by as is it he we us or so if no my rs sq eu uk".split()

# A value, with words replaced by "w". (Atomic groups: Python before 3.11.5 gets "*+" wrong.)
_MONEY = "$€£¥₹₩₽¢₱₦₫฿₺₴₪"
_BESIDE = (
    rf"(?>(?:w|[\s,\"'“”‘’«»「」°%{_MONEY}{_GONE}]|(?<=w)\.|(?<=[w\d])[-/](?=w)"
    r"|\([w ,]*\)|\[[w ,]*\])*)"
)
_NUMBER = (
    r"((?:[0-9]{1,3}(?:(?:,[0-9]{3})+(?![0-9])|(?: [0-9]{3})+(?![0-9/]))|[0-9]+)(?:\.[0-9]+)?"
    r"|(?<![\w.])\.[0-9]+)(?:/([0-9]+))?"
)
_VALUE = re.compile(
    rf"(?P<before>{_BESIDE})(?<!w)(?P<sign>[-+—―]?)(?P<gap>[\s{_MONEY}{_GONE}]*)"
    rf"(?:(?P<number>{_NUMBER})|\([{_MONEY}]?(?P<inside>{_NUMBER})\)){_BESIDE}"
)


class Stated(NamedTuple):
    """The answer that a text states."""

    number: Fraction
    text: str  # up to the statement, which is now "The answer is N."
    dropped: bool  # whether ``text`` leaves out words after the statement


def find_answer(text: str) -> Stated | None:
    """The last statement, without GSM8K's ``<<3*4=12>>`` notes; None if it states no number."""
    text = _CALCULATOR_NOTE.sub(_GONE, text).strip()
    marks = list(_MARK.finditer(text))
    if not marks:
        return None
    mark, plain, start = marks[-1], text.translate(_PLAIN), marks[-1].end()
    ends = _END.finditer(plain, start)
    stop, end = next((e.span() for e in ends if not _goes_on(plain, e.end())), [len(text)] * 2)
    number = stated_number(plain[start:stop]) if stop - start <= _LONGEST else None
    # "1. Add" is a list item or a heading; "- 5" may be an item.
    listed = mark[1] == "####" or "\n" in mark[2]
    item = plain[stop:end] == "." and plain[end:].split("\n")[0].strip(_GONE + " *_`$])")
    if number is None or (listed and item) or ("\n" in mark[2] and plain[start:].startswith("- ")):
        return None
    chain = text[: mark.start()].rstrip("*_`" + _GONE)
    if mark[1] == "####" and chain.strip():
        chain = chain.rstrip() + "\n"
    text, rest = f"{chain}The answer is {number}.".replace(_GONE, ""), text[end:]
    return Stated(to_number(number), text, any(c.isalnum() for c in rest))


def _goes_on(text: str, end: int) -> bool:
    """Whether the sentence goes on after the full stop before ``end``."""
    unit = _UNIT_BEFORE.search(text, max(0, end - 6), end) and _NUMBER_BEHIND.match(text, end)
    return bool(unit) or is_abbreviation(text, end)


def stated_number(statement: str) -> str | None:
    """The number of a statement, as text; None if it states none.

    >>> stated_number("2 pens + 3 pens = 5 pens"), stated_number("-$1,005.50 a day")
    ('5', '-1,005.50')
    """
    statement = re.sub(f"[{_UNSEEN}]", "", statement)
    for pattern, plain in _MARKUP:
        statement = re.sub(pattern, plain, statement)
    if _BOUND.search(statement):
        return None
    left, equals, value = statement.rpartition("=")
    if equals and _NO_ANSWER.search(left.replace(_GONE, " ")):
        return None
    found = _VALUE.fullmatch(_WORD.sub(_plain_or_not, value))
    if found is None:
        return None
    before, sign, number = found["before"], found["sign"], found["number"] or found["inside"]
    away = found["gap"].strip(_MONEY + _GONE)  # a space between sign and number
    if sign and "w" in before and (before[-1] not in f" {_GONE}" or away):
        return None  # "in all - 3"
    if (sign in "—―" and sign and away) or (found["inside"] and not sign and "/" not in number):
        return None
    number = ("-" if sign in tuple("-—―") else "") + number
    return None if to_number(number) is None else number


def _plain_or_not(word: re.Match) -> str:
    """A word beside a number → "w", with its full stop; "?" if it may mean more."""
    text, before = word[0].rstrip("."), word.string[: word.start()]
    after = word.string[word.end() :]
    letters = unicodedata.normalize("NFKC", re.sub("['’²³]", "", text))
    glued = before[-1:].isdigit()
    if not letters.isalpha() or _MEANS_MORE.fullmatch(text) or (glued and letters[0] in "xX"):
        return "?"
    if word[0] != text and after[:1].isdigit() and not is_abbreviation(word.string, word.end()):
        return "?"  # "apples.5"
    if letters.lower() == letters.upper():
        return "w" + _GONE  # a script without capitals often has no spaces either
    variable = len(letters) <= (3 if glued else 2) and before[-1:] != "°"
    if letters in _UNITS and re.search(r"\d", before):
        money = set(before) & set(_MONEY) or re.match(rf"\s*[\w{_MONEY}]", after)
        variable = letters == "m" and bool(money)  # a million
    elif letters.lower() in _SHORT_WORDS and not glued:
        variable = letters == "A" or (letters == "a" and not re.match(r"\s+[^\W\d_]{2}", after))
    return "?" if variable else "w" + word[0][len(text) :]


def to_number(text: str) -> Fraction | None:
    """ "1,005.00", "10 000", "-3", "1/2" → the exact number; None for "1,00,000" or "1/0"."""
    found = re.fullmatch(f"(-?){_NUMBER}", text) if len(text) <= _LONGEST else None
    if found is None or int(found[3] or 1) == 0:
        return None
    return Fraction(found[1] + re.sub("[, ]", "", found[2])) / int(found[3] or 1)


def plain_number(number: Fraction) -> str:
    """ "51", "-0.5"; "1/3" where no decimal is exact."""
    try:
        exact = Context(prec=2 * _LONGEST, traps=[Inexact])
        return f"{exact.divide(Decimal(number.numerator), Decimal(number.denominator)):f}"
    except Inexact:
        return str(number)


def parse_answer(text: str) -> Fraction | None:
    """The number that a text states as its answer, if any."""
    return (found := find_answer(text)) and found.number
