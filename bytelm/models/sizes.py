"""The sizes of a stack of layers, as the configs of models name them, and what follows from them."""

from __future__ import annotations

from typing import Any

from bytelm import words
from bytelm.layers import Sizes
from bytelm.words.machine import Rule


class Stacked:
    """A config with a stack of layers, whose fields have the plain names; None takes the usual proportion."""

    layers: int
    width: int  # D
    heads: int  # N
    key_heads: int | None
    head_width: int | None
    mlp_width: int | None
    rope_base: float
    dropout: float

    @property
    def K(self) -> int:
        """Heads of keys: as many as of queries, unless given."""
        return self.key_heads or self.heads

    @property
    def H(self) -> int:
        """The width of a head: an equal part of the stream's, unless given."""
        return self.head_width or self.width // self.heads

    @property
    def F(self) -> int:
        """The hidden width of a layer: 8/3 of the stream's, rounded up to a multiple of 64, unless given."""
        return self.mlp_width or hidden_width(self.width)

    @property
    def sizes(self) -> Sizes:
        """Of a layer."""
        return Sizes(self.width, self.heads, self.K, self.H, self.F, self.rope_base, self.dropout)

    def check_stack(self, *others: str) -> None:
        """Raises ValueError, naming the field, for sizes of the stack or `others` that cannot be."""
        names = ("layers", "width", "heads", "key_heads", "head_width", "mlp_width")
        check_positive(self, *names, *others)
        if self.head_width is None:
            check_heads(self)
        if self.heads % self.K:
            raise ValueError(f"model.heads {self.heads} is no multiple of model.key_heads {self.key_heads}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"model.dropout must be in [0, 1), got {self.dropout}")


class Ruled:
    """A config with words, those of a boundary rule."""

    rule: str
    cap: int

    @property
    def boundaries(self) -> Rule:
        return words.rule(self.rule, self.cap)

    def check_rule(self) -> None:
        """Raises ValueError for an unknown rule, and for a cap below a character."""
        try:
            self.boundaries  # noqa: B018
        except ValueError as error:
            raise ValueError(f"model.rule, model.cap: {error}") from error


def hidden_width(width: int) -> int:
    """8/3 of it, rounded up to a multiple of 64: SwiGLU's parameters are then those of a plain layer of 4."""
    return -(-width * 8 // (3 * 64)) * 64


def check_positive(config: Any, *names: str) -> None:
    """Raises ValueError for a size in a model's config that is below 1; None is left as it is."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"model.{name} must be positive, got {value}")


def check_heads(config: Any, level: str = "") -> None:
    """Raises ValueError where the heads of a level do not share its width out evenly."""
    width, heads = getattr(config, f"{level}width"), getattr(config, f"{level}heads")
    if width % heads:
        raise ValueError(f"model.{level}width {width} is no multiple of model.{level}heads {heads}")


def check_rotary(name: str, head_width: int) -> None:
    """Raises ValueError where half of a head cannot be turned against the other."""
    if head_width % 2:
        raise ValueError(f"model.{name} {head_width} must be even: rotary positions pair its halves")
