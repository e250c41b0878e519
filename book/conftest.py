"""nbval compares the notebooks below this folder as book/_tools/compare.py says: floats to a tolerance, words exactly."""

import nbval.plugin

from book._tools.compare import same_text


class Text(str):
    """An output that equals another when `same_text` says so. nbval compares outputs with != and hashes none of them."""

    __hash__ = None

    def __eq__(self, other):
        return isinstance(other, str) and same_text(self, other)

    def __ne__(self, other):
        return not self == other


_sanitize = nbval.plugin.IPyNbCell.sanitize


def sanitize(cell, value):
    value = _sanitize(cell, value)
    return Text(value) if isinstance(value, str) else value


nbval.plugin.IPyNbCell.sanitize = sanitize
