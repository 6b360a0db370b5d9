"""Lets the tests of this folder import `fakes`, also when they are run alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
