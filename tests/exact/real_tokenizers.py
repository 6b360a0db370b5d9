"""Where real tokenizers are, for the tests that use them."""

from __future__ import annotations

from real_data import real

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


def real_path(name: str) -> str:
    """The path of a real tokenizer's file; skips the test where there is none."""
    return str(real("tokenizers", name, "tokenizer.json"))
