"""Moved to runtime/distributed.py; the old name goes on working, and is the same
module.
"""

import sys

from .runtime import distributed
from .runtime.distributed import *  # noqa: F403  (for type checkers: the line below is for Python)

sys.modules[__name__] = distributed
