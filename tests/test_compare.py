"""The comparison of stored and fresh outputs notices what it must, and only that."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from book._tools.compare import same_text

ROOT = Path(__file__).resolve().parents[1]

SAME = [
    ("mean 0.12345", "mean 0.12346"),  # the last digit flips
    ("9.999 to 1.001e-05", "10.00 to 1.000e-05"),  # at a power of ten
    ("off by 2.2e-16", "off by 3.3e-16"),  # float64 rounding noise
    ("-1.0e-17", "0.0"),  # the same, and a sign
    ("t   0.5001   1.2500", "t  0.5000 1.2500"),  # the width of a column
    ("It is 2.1300.", "It is 2.1301."),  # at the end of a sentence
    ("nan", "nan"),
]
DIFFERENT = [
    ("mean 0.1234", "mean 0.1246"),  # 1%
    ("mean 0.1234", "mean -0.1234"),
    ("1.000e-05", "1.010e-05"),  # 1% of something small
    ("loss 5e-2", "loss 5.05e-2"),  # 1%, written with an exponent
    ("1000 steps", "1001 steps"),  # integers are exact
    ("in 1000.", "in 1001."),  # and stay integers before a full stop
    ("torch 2.13.0", "torch 2.13.1"),  # a version is a word
    ("0.5 and 0.6", "0.5"),  # one number fewer
    ("0.5", "nan"),
    ("ok   Eq. (4)", "FAIL Eq. (4)"),
    ("a\nb", "a b"),  # lines are layout
    ("1e-10", "1e-8"),  # no noise
]


@pytest.mark.parametrize("a, b", SAME)
def test_same(a, b):
    assert same_text(a, b) and same_text(b, a)


@pytest.mark.parametrize("a, b", DIFFERENT)
def test_different(a, b):
    assert not same_text(a, b) and not same_text(b, a)


# (source, stored output, does it pass?) for a notebook that nbval runs below.
HTML = 'from IPython.display import HTML\nHTML(\'<img alt="a boot" src="data:image/png;base64,%s">\')'
CELLS = [
    ("print(0.12345)", "0.12346\n", True),
    ("print(0.12345)", "0.12469\n", False),
    ("print(7)", "8\n", False),
    (
        "print('largest difference 1.0e-07, allowed 1e-06')",
        "largest difference 8.0e-07, allowed 1e-06\n",
        True,
    ),
    (
        "print('largest difference 1.0e-07, allowed 1e-06')",
        "largest difference 1.0e-07, allowed 1e-05\n",
        False,
    ),
    (HTML % "AAAA+/8=", '<img alt="a boot" src="data:image/png;base64,BBBB">', True),
    (HTML % "AAAA+/8=", '<img alt="a bag" src="data:image/png;base64,BBBB">', False),
    (
        "import sys; print('careful', file=sys.stderr)",
        "",
        False,
    ),  # a warning that was not there
]


def test_nbval_compares_so(tmp_path):
    """The whole way: nbval with this project's conftest and sanitizer, on a notebook whose stored outputs are right or wrong."""
    nb = nbformat.v4.new_notebook()
    for source, stored, _ in CELLS:
        cell = nbformat.v4.new_code_cell(source, execution_count=1)
        if stored.startswith("<"):
            data = {
                "text/html": stored,
                "text/plain": "<IPython.core.display.HTML object>",
            }
            cell.outputs = [
                nbformat.v4.new_output("execute_result", data, execution_count=1)
            ]
        elif stored:
            cell.outputs = [
                nbformat.v4.new_output("stream", name="stdout", text=stored)
            ]
        nb.cells.append(cell)
    nbformat.write(nb, tmp_path / "stored.ipynb")
    shutil.copy(ROOT / "book" / "conftest.py", tmp_path)

    sanitizer = ROOT / "book" / "_tools" / "nbval_sanitize.cfg"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        "--nbval-current-env",
        f"--nbval-sanitize-with={sanitizer}",
        "-v",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={ROOT}",
        "--color=no",
        "-c",
        "/dev/null",
        f"--rootdir={tmp_path}",
        str(tmp_path),
    ]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout
    found = [f"Cell {i} PASSED" in said for i in range(len(CELLS))]
    assert found == [passes for *_, passes in CELLS], said
