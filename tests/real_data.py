"""Real models, tokenizers and benchmarks, for the tests that use them where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def real(*parts: str) -> Path:
    """A file or folder of the data, BYTELM_TEST_DATA or `shared/data` beside or in the checkout.

    Skips the test where it is missing.
    """
    named = os.environ.get("BYTELM_TEST_DATA")
    for folder in [Path(named)] if named else [ROOT / "../shared/data", ROOT / "shared/data"]:
        if (path := folder.joinpath(*parts)).exists():
            return path
    pytest.skip(f"no test data: set BYTELM_TEST_DATA to a folder with {'/'.join(parts)}")
