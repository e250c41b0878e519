"""What the count of readability takes for a sentence, a long one, a passive and a rare word."""

import json

import pytest

from book._tools.readability import counts, prose, sentences


def notebook(*cells: str) -> str:
    return json.dumps(
        {"cells": [{"cell_type": "markdown", "source": [c]} for c in cells]}
        | {"metadata": {}, "nbformat": 4}
    )


def test_what_is_no_prose_is_left_out():
    text = prose(
        notebook(
            "# A heading. It has sentences.\n\nVisit $t_1<t_2$ and Eq. (4) [here](a.md)."
            "\n\n$$a. b. C > d$$\n\n```python\nx. Y\n```\n\n<details>It ends > here.</details>"
        )
    )
    assert sentences(text) == [
        "Visit Formula and Eq here".split(),
        "It ends here".split(),
    ]


def test_the_five_numbers():
    short, passive = "The cat sat here.", "The mat was quickly taken."
    long = "Many " + "words " * 30 + "follow."
    common = {"the", "cat", "sat", "here", "mat", "was", "many", "words", "follow"}
    got = counts(" ".join([short, passive, long]), common)
    assert got == pytest.approx([5, 32, 100 / 3, 100 / 3, 100 * 2 / 41])


def test_a_sentence_ends_where_a_list_goes_on():
    assert (
        len(sentences("He went home (by car). It rained all day\n- one two three")) == 3
    )
