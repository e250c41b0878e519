"""Moved to runtime/hardware.py; the old name goes on working, and is the same module."""

import sys

from .runtime import hardware
from .runtime.hardware import *  # noqa: F403  (for type checkers: the line below is for Python)

sys.modules[__name__] = hardware
