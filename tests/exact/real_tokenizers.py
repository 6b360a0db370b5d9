"""Where real tokenizers are, for the tests that use them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = (
    "gpt2",
    "starcoder",
    "deepseek-coder",
    "deepseek-coder-lossless",
    "mistral-v1",
    "tekken",
    "cl100k",
    "o200k",
    "unigram-test",
)


def data_folder() -> Path | None:
    """The folder with real tokenizers: BYTELM_TEST_DATA, or `shared/data` beside or in the checkout."""
    named = os.environ.get("BYTELM_TEST_DATA")
    folders = [Path(named)] if named else [ROOT / "../shared/data", ROOT / "shared/data"]
    return next((f for f in folders if (f / "tokenizers").is_dir()), None)


def real_path(name: str) -> str:
    """The path of a real tokenizer's file; skips the test where there is none."""
    folder = data_folder()
    if folder is None:
        pytest.skip("no test data: set BYTELM_TEST_DATA to a folder with tokenizers/NAME/tokenizer.json")
    path = folder / "tokenizers" / name / "tokenizer.json"
    if not path.exists():
        pytest.skip(f"no test data: {path} is missing")
    return str(path)
