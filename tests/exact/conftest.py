"""What the tests of exact conversion share: small tokenizers trained here, and real ones where there are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tokenizer_zoo
from real_tokenizers import real_path


@pytest.fixture(scope="session")
def real() -> Callable:
    """A function from the name of a real tokenizer to its `Canonical`, built once."""
    from bytelm.exact.canonical.canonical import canonical_of

    built: dict = {}

    def get(name: str):
        if name not in built:
            built.clear()  # one at a time: the largest take half a gigabyte
            built[name] = canonical_of(real_path(name))
        return built[name]

    return get


@pytest.fixture(scope="session")
def small() -> Callable:
    """A function from the name of a small tokenizer to its `Canonical`, built once."""
    from bytelm.exact.canonical.canonical import canonical_of

    built: dict = {}

    def get(name: str):
        if name not in built:
            built[name] = canonical_of(tokenizer_zoo.SMALL[name]())
        return built[name]

    return get
