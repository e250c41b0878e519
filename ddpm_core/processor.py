"""Moved to fast.py; the old name goes on working, and is the same module."""

import sys

from . import fast
from .fast import *  # noqa: F403  (for type checkers: the line below is for Python)

sys.modules[__name__] = fast
