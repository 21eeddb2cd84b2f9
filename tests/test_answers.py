"""Numbers in text: one rule, by table and by property, and no text that takes long to read."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ases.answers import find_answer, parse_answer, plain_number, to_number


def cases(table):
    """(text, number) of lines "number: text | text", in which ⏎ is a newline."""
    rows = [line.split(": ", 1) for line in table.strip().splitlines()]
    values = {number: None if number == "none" else Fraction(number) for number, _ in rows}
    texts = [(text, values[number]) for number, row in rows for text in row.split(" | ")]
    return [(text.replace("⏎", "\n"), value) for text, value in texts]


#: A number, and what stands behind "The answer is " where it is stated.
STATED = cases(r"""
5/2: $2.50
-3: -$3
-5: −5 | –5 | －5 | - 5 | $-5 | "-5" | **-5** | \(-5\)
-5/4: -\$1.25
-40: -€40
1000: 1,000 | １，０００
1/2: \boxed{\frac{1}{2}}
-2/5: -\frac{2}{5}
9/4: \dfrac{9}{4}
1/3: $\frac{1}{3}$ | 1/3
42: \boxed{42} | **42** | $42$ | \(42\) | 42
7/2: ３．５
7: y = 7
5: 2 pens + 3 pens = 5 pens | 9 – 4 = 5 | 2 + 3 = 4 + 1 = 5 | 5 a day | 5 km/h | 5 apples | +5
8: 2 · 4 = 8 | 3. No: the answer is 8 | 8। अब | 8۔ و | 8।
12: 3 \times 4 = 12 | 4(3) = 12 | "12" | 12 square feet | 12 left over | 12 \text{ cm}
20: 25% of 80 = 20
18: 18 dollars | 18% | $ 18.00 per hour | \boxed{\text{18 apples}} | \boxed{x = 18} | ￥18 | ₹18
10: 5 + 5 = 10
5: 5 more | 5 apples more than Ann
9: 9. It follows since 4 + 5 = 9
""")
#: With characters that nobody sees.
STATED += [(text, 9) for text in ("\u200b9", "\ufeff9", "9\u200f", "**\u20609**\u200b")]
STATED += [("-\u200e5", -5)]
#: The same where no number is stated, or in a form too rare to be read.
UNSTATED = r"""
2\frac{1}{4} | 5 \frac{1}{2} | 2 1/2 | 2½ | 2\sqrt{5} | \sqrt{2} | 4\pi | (1, 2) | [1, 5)
\{1, 2\} | 11_3 | 0.\overline{6} | 7 million | $1.5 billion | 5M | 20k | 2 dozen | 4万 | 2.5亿
3 hours and 20 minutes | 5 feet, 2 inches | 2 cats and 3 dogs | 4 x 10^3 | 4 \times 10^3
10^{-2} | 2'000 | 2’000 | 2_000 | 20, 000 | 1.234.567 | 1,00,000 | 3:45 | 1e5 | 3*4 | 5 - 3
8m + 6 | unknown. There are 4 pens | C. 20 apples | between 3 and 5 | 5/0 | 5x | 2ab | 5i | f(3)
(12) | x >= 5 | x != 5 | x = 2, y = 3 | in all - 5 | a-5 | $5m | (C) 20 | 5! | 0.333.. | not 5
twice 5 | half of 5 | one and 1/2 | 3 quarters | 5² | √5 | ±5 | ~5 | ≤5 | 5; 6 | 5:3 | 5π | ३
5 to 6 | 5 тысяч | 5 *300 | 5* 300 | 5** 300 | 12 *500 dollars | 2\(3\) | \(2\)\(3\) | 5\;300
\boxed{2}\boxed{3} | 2\text{3} | 2 \text{300} | 5\!300 | 3<<1+1=2>>2 | 2 100/300 | 1 234/567
5 ft. 6 in. | 5 lbs. 3 oz. | — 18 apples | $x = 2$, $y = 3$ | x_1 = 2, x_2 = 3
x=5 y=3 | length = 5, width = 3 | x, y = 2,300 | 8 when x = 3 | 12 apples, as 1 box = 6
x \not= 5 | x ≥ = 5 | not = 5 | 2 < x = 5 | 5ⁿ | 2ˣ | 5𝑥 | 5𝜋 | 5 xy | 3(ab) | 0xFFFF
at least 7 | more than 7 | no more than $7 | under 7 | at most 3 + 4 = 7 | 7 or more | 7 at least
5 factorial | 5 squared | never 5 | 0.3 repeating | 5m dollars | total.50 | 5 ! | Step 3
Option 2 | menos 5 | 5 mille | 负 5 | 5仟 | 5 Tausend | 3 sixteenths | 5a day | 101 (binary)
minus 3 | about -5 | about 12 boxes | -(1/2) | \frac12 | 1{,}000 | 10\,000 | 10 000 | Rs. 500 | No. 7
the 5th | 5 m² | 12 (boxes) | 12-foot | 12°C | 12 個 | 12m | 共18个 | 240g | 3!/2 = 3 | —5
""".strip()
#: Whole texts.
TEXTS = cases(r"""
7: The answer is:⏎\[⏎7⏎\] | The answer is:⏎$$⏎\boxed{7}⏎$$ | The answer is:⏎⏎**7**
none: The answer is:⏎- 5 apples⏎- 3 pears | The answer is:⏎1. 5 apples | #### Step 2⏎Total is 30.
none: #### 2. Calculate the total⏎Total 30. | #### Step 2: add⏎ | The answer is 4.⏎#### Remarks
none: so 7 are left | The answer is approx. 5. So it is. | The answer is 5 (see Fig. 5). So
none: The answer is 5, so 3
2: It is <<1+1=2>>2. The answer is <<1+1=2>>2.
4: It is 2 + 2 = <<2+2=4>>4.⏎#### 4 | THE ANSWER IS 4
5: She adds 2.⏎#### 1. Sum⏎2 + 3 = 5.⏎The answer is 5. | #### 4 ⏎#### 5
6: **The answer is 6**
42: ####⏎42
""")
TEXTS += [("The\xa0answer\u200b \xa0is 9.", 9)]
TEXTS += [("The answer is " + "apple " * 160 + "b" * 37 + " 3.75 apples", None)]


@pytest.mark.parametrize("text, number", STATED)
def test_a_statement_of_one_number(text, number):
    assert parse_answer(f"so.\nThe answer is {text}.") == number
    if not re.search(r"\d\. ", text):  # behind #### that is a heading
        assert parse_answer(f"#### {text}") == number


@pytest.mark.parametrize("text", re.split(r" \| |\n", UNSTATED))
def test_a_part_of_a_number_is_worse_than_none(text):
    assert find_answer(f"2 + 3 = 5. The answer is {text}.") is None
    assert find_answer(f"#### {text}") is None


@pytest.mark.parametrize("text, number", TEXTS)
def test_the_last_statement_counts(text, number):
    assert parse_answer(text) == number


def test_numbers():
    numbers = {"1,005.00": 1005, "-3": -3, "1/2": 0.5, ".5": 0.5, "0.1": "1/10"}
    for text, expected in numbers.items():
        assert to_number(text) == Fraction(expected), text
    nothing = ["3/0", "", "five", "1e5", "--2", "½", "٣", "1,00", "10 000", "9" * 1001]
    assert not [text for text in nothing if to_number(text) is not None]


def test_numbers_are_written_plainly():
    written = ["51", "-0.5", "1/3", "0.00001", "1" + 20 * "0"]
    assert [plain_number(Fraction(number)) for number in written] == written


FORMS = [
    ("3*4 = <<3*4=12>>12 apples.\n#### 12", "3*4 = 12 apples.\nThe answer is 12."),
    ("a\n#### 1,080", "a\nThe answer is 1,080."),
    ("So 7 left. \nThe answer is 7. \n\nI hope this helps!", "So 7 left. \nThe answer is 7."),
    ("the answer is 4? No, the answer is $5.50.", "the answer is 4? No, The answer is 5.50."),
    ("x\n#### -$72%", "x\nThe answer is -72."),
    ("so **the answer is \\frac{1}{2}**", "so The answer is 1/2."),
    # Only calculator notes are taken out.
    ("x = 1 << 3 >> 2. The answer is 2.", "x = 1 << 3 >> 2. The answer is 2."),
    ("See <<Table 1>>, <<a=b>>. #### 3", "See <<Table 1>>, <<a=b>>.\nThe answer is 3."),
    ("cout << n << endl; cin >> m. The answer is 3.",) * 2,
]


@pytest.mark.parametrize("answer, expected", FORMS)
def test_answers_are_brought_to_one_form(answer, expected):
    assert find_answer(answer).text == expected


def test_text_behind_a_statement_is_noticed():
    for text in ("The answer is 5.", "#### 5 apples**"):
        assert not find_answer(text).dropped
    assert find_answer("The answer is 5. So 6.").dropped


PARTS = ["the answer is", "####", "#### Step 2: add", "The answer is: ", "**", "*", "_", "\n", ". "]
PARTS += [" ", "5", "-", "1,080", "1/2", "= 7", "$", "so ", "<<1=1>>", "<<", ">>", "x", "No. ", "("]
PARTS += [")", "\\frac12", "million", "10 000", "−", "!", "\u2028", "５", "%", "\\boxed{3}", "a"]


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join))
def test_references_and_predictions_are_read_alike(text):
    stated, value = find_answer(text), parse_answer(text)
    assert (stated is None) == (value is None)
    if stated is not None:
        assert re.search(r"The answer is -?[0-9., /]+\.$", stated.text)
        again = find_answer(stated.text)
        assert (again.text, again.number) == (stated.text, value)


LONG = ["5", "1,000", "a ", "5 + ", "(", "**", "the answer is ", "####", "<<", "\\frac{1", "="]


@pytest.mark.parametrize("part", LONG)
def test_no_text_takes_long(part):
    """If anything here took quadratic time, this would take hours."""
    assert find_answer("The answer is " + part * 200_000) is None
