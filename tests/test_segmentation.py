"""Pieces, labels, segments: worked by hand, and as properties of any string."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ases.metrics import role_agreement
from ases.segmentation import AS, ES, entropy_labels, make_segments, piece_entropies, split_pieces

#: Chains, ¦ between them, | between their pieces; ⏎ is a newline.
CUTS = r"""
1、胰头部高代谢灶，|考虑恶性；|肝囊肿。|  2.双肺结节 ¦ SUVmax:3.6.|胰腺 ¦ 共1，005个，|三 ¦ ٣,٣ ３.３
He pays $1,005.50 now.| Then 3.5 more ¦ That makes 3.| So 4. ¦ 3. ¦ Count 1,| 2,| 3.| Then stop.
a = 2⏎|b = 3 ⏎⏎|c ¦ He said "no!"| Then left...| Why?! ¦ Mrs. Lee has .5 of it,| i.e. half
1. Nodule,| benign.| 2. Cyst. ¦ apples,|pears,|1,2 ¦ 5...10 apples ¦ He left...|Then he
is it?| 4.| So he ¦ x =⏎|4.| So he ¦ a != b,| so ¦ TeX's 1{,}000 is ¦ It is 14,\!400,| so more
10! / (2! * 8!) = 45.| So ¦ \frac{10!}{2!8!} \times 5! \cdot 2 ¦ n! / (k!(n-k)!) = 6,| so 6
a 10\,000,| 0.\overline{3} ¦ He won 5!| Then (it was 6!)| he ¦ He pays Rs. 500.| Then
see https://a.b/c?x=1;y=2.| Then ¦ No. 5 is.| No.| He ¦ On Jan. 5 Prof. Lee has approx. 9
So⏎|12.⏎|Then ¦ ... and so ¦ 100. Add it.| 1000.| No item ¦ in the U.S.S.R.A. 5 are.| So ¦ A.| B.| C
""".strip()
#: Marks of other scripts, which between digits end nothing: Hindi and Urdu; Arabic and Persian;
#: Amharic and Burmese; Santali, Armenian, Khmer and Tibetan; Greek; Mongolian and N'Ko; full-width.
CUTS += r"""
राम के पास 5 सेब हैं।| उसने 3 और खरीदे॥| अब 8 ¦ علی کے پاس 5 سیب ہیں۔| اب 8 ہیں؟| ہاں
لديه 5 تفاحات،| واشترى ٣،٥؛| فالمجموع 8. ¦ ۵ سیب دارد،| ۳ سیب خرید؛| اکنون ۸
5 ፖም፣| 3 ገዛ፤| አሁን 8 አለው።| አዎ ¦ ၅ လုံးရှိသည်။| ၃ လုံး၊| ၈ လုံး။
ᱢᱤᱫ᱾| ᱵᱟᱨ᱾| ᱯᱮ ¦ նա ունի 5 խնձոր։| հիմա 8 ¦ មាន 5 ។| ឥឡូវ 8៕ ¦ བོད།| ཡིག༎
έχει 5 μήλα·| άρα 8· 3,| 2 · 4 = 8,| l·l ¦ нэг᠂| хоёр᠃| гурав ¦ ߊ߸| ߋ߹| ߌ
有5个苹果．|又买3个｡|共８．５个‼|对⁇ ¦ 苹果、梨和桃，|共3个 ¦ Él dijo «no.»| Y
""".rstrip()
#: Formulas are whole, and a closing "$" goes with the mark before it.
CUTS += r"""
Let $f(x, y) = x^2$.| Then $f(3,⏎4) = 25$,| so ¦ The set $\{1, 2, 3\}$ is.| It ¦ $$a,⏎b.$$| c
Note $a_1, \ldots, a_n$ and \(a, b\) or \[a; b\] are given.| So ¦ [\(a, b\),| c]
$\left. \frac{dy}{dx} \right) = 3$. ¦ \begin{align*} a &= 1; \\ b &= 2. \end{align*} Thus 3.
Here $r = 3.$| Then $2r = 6.$| So 6 ¦ It is $5!$ or $a\,$ b
We get \[x = 3.\]|Then $y = 4,$| so \(x = 3.\)| Then 4
""".rstrip()
#: Money is none, and what is never closed hides nothing.
CUTS += r"""
He pays $5,| then $6,| so $11. ¦ 5$,| then 6$,| so 11$. ¦ US$5,| then US$6 ¦ $1,005.50,| or $20
$5-$10,| then $.50+$.25,| so ¦ so 2+3=$<<2+3=5>>5,| then 6=$<<6=6>>6
\[ a,| b \( c,| d $x,| y
""".rstrip()
LINE_ENDS = "3 + 4 = 7\r|7 * 2 = 14\r\n|So\x85|14\u2028|is\u2029|it"


@pytest.mark.parametrize("cut", [*re.split(" ¦ |\n", CUTS), LINE_ENDS, " \n", ""])
def test_pieces_by_hand(cut):
    cut = cut.replace("⏎", "\n")
    assert split_pieces(cut.replace("|", "")) == [piece for piece in cut.split("|") if piece]


@settings(max_examples=1000, deadline=None)
@given(st.text() | st.text(alphabet='a1 3.,;!?\n。，；）”"$-胰é٣ ', max_size=40))
def test_pieces_of_any_string(text):
    """They join back, each has a word unless there is none, and no cut is inside a number."""
    pieces = split_pieces(text)
    assert "".join(pieces) == text and all(pieces)
    assert all(any(c.isalnum() for c in piece) for piece in pieces) or len(pieces) == 1
    cuts = set(itertools.accumulate(map(len, pieces)))
    for number in re.finditer(r"\d+(?:[.,]\d+)*|\.\d+", text):
        assert not cuts & set(range(number.start() + 1, number.end()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.text(min_size=1, max_size=3), st.sampled_from([ES, AS]))))
def test_merged_segments_alternate_and_join_back(labelled):
    pieces, labels = [p for p, _ in labelled], [label for _, label in labelled]
    segments = make_segments(pieces, labels)
    assert [s.label for s in segments] == ([ES, AS] * len(segments))[: len(segments)] != []
    assert "".join(s.text for s in segments) == "".join(pieces)
    assert all(s.pieces for s in segments[1:])
    assert [s.text for s in make_segments(pieces, labels, merge=False)] == pieces


def test_a_label_for_each_piece():
    with pytest.raises(ValueError, match="3 pieces but 1 labels"):
        make_segments(["a", "b", "c"], [ES])


def test_piece_entropy_by_hand():
    for gamma, first in ((0, 8.0), (0.5, 4.0), (1, 2.0), (2, 0.5)):
        assert piece_entropies([[1.0, 2.0, 3.0, 2.0], [4.0]], gamma) == [first, 4.0]
    assert piece_entropies([[]], gamma=1) == [0.0]


def test_entropy_labels_by_hand():
    values = [1.0, 2.0, 6.0]  # their mean is 3; exactly the threshold is ES
    for beta, labels in ((1.0, [ES, ES, AS]), (0.5, [ES, AS, AS]), (2.0, [ES, ES, ES])):
        assert entropy_labels(values, beta) == labels
    assert entropy_labels([], beta=1.0) == []
    # The rounded mean of equal numbers lies below them.
    assert entropy_labels([0.7] * 3, beta=1.0) == [ES] * 3


@pytest.mark.parametrize("part", ["Mr. ", " ", "! ", "a,b ", "$a ", "$$", "\\[", "\\begin{a}"])
def test_no_chain_takes_long(part):
    """If anything here took quadratic time, this would take an hour."""
    pieces = split_pieces(part * 200_000)
    segments = make_segments(pieces, [ES] * len(pieces))
    assert sum(len(s.text) for s in segments) == len(part) * 200_000


def test_agreement_by_hand():
    def scores(gold, labels, role):
        of_role = role_agreement([gold], [labels])[role]
        return [of_role[name] for name in ("precision", "recall", "f1")]

    assert scores([ES, AS, ES, AS], [ES, AS, AS, AS], ES) == pytest.approx([1.0, 0.5, 2 / 3])
    assert scores([ES, AS, ES, AS], [ES, AS, AS, AS], AS) == pytest.approx([2 / 3, 1.0, 0.8])
    assert scores([ES], [ES], AS) == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="zip"):
        role_agreement([[ES, AS]], [[ES]])
