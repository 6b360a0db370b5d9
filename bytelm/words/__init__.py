"""Boundary rules: where words end in bytes, decided from the bytes themselves.

`rule(name, cap)` gives a `Rule`, which answers in three ways that agree to the bit: on bytes and NumPy arrays
(`Rule.ended_before`, `Rule.cut`), on rows inside `jax.jit` (`Rule.read`), one symbol at a time (`Rule.step`).
"""

from bytelm.words.machine import Rule, State
from bytelm.words.rules import CAP, DEFAULT, RULES, rule

__all__ = ["CAP", "DEFAULT", "RULES", "Rule", "State", "rule"]
