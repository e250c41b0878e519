"""When is a notebook's output, computed anew, the stored one?

Words, integers, layout        exactly.
Floats                         to RTOL relative: another processor sums in another order. Two floats below NOISE are both rounding
                               noise around zero in float64 (1e-16 to 1e-12); nothing that the book states is as small.
                               A float is a number with a digit after its point, or with an exponent; `3.` and `100` are exact.
                               RTOL is one unit in the fourth significant digit or more, so four printed digits are safe from a
                               last digit that flips, and a change of 1% is always seen.
Blanks                         a run of blanks is one blank, for the width of a column follows the digits in it.
PNG and JPEG, alone or in HTML not at all (nbval_sanitize.cfg): fonts and anti-aliasing differ between machines. That a picture
                               is of the present source is proved by the digest that execute.py stores. What HTML says around
                               the picture (alternative text, caption, sizes) is compared like any other text.
"""

import math
import re

RTOL = 1e-3
NOISE = 1e-9
FLOAT = re.compile(
    r"(?<![\w.])[-+]?(?:\d*\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)(?!\w|\.\d)"
)


def same_text(a: str, b: str) -> bool:
    """The comparison above. Symmetric: it does not matter which of the two is the stored one."""
    return _words(a) == _words(b) and all(
        map(_same_float, FLOAT.findall(a), FLOAT.findall(b))
    )


def _words(text: str) -> str:
    return re.sub(r"[ \t]+", " ", FLOAT.sub("<float>", text))


def _same_float(a: str, b: str) -> bool:
    x, y = float(a), float(b)
    return math.isclose(x, y, rel_tol=RTOL) or max(abs(x), abs(y)) < NOISE
