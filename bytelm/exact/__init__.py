"""Exact conversion: a tokenized language model as a model over bytes."""

from bytelm.exact.all_covers.all_lm import AllLM
from bytelm.exact.all_covers.bounds import Bounds
from bytelm.exact.canonical.canonical import Canonical, canonical_of
from bytelm.exact.converter import ConvertedLM, convert
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.vocabulary import Vocabulary

__all__ = [
    "AllLM",
    "Bounds",
    "Canonical",
    "ConvertedLM",
    "Unsupported",
    "Vocabulary",
    "canonical_of",
    "convert",
]
