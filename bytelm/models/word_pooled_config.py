"""The sizes and parts of a word-pooled model (`bytelm.models.word_pooled`)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from bytelm import words
from bytelm.layers import Sizes
from bytelm.models.sizes import Ruled, Stacked, check_heads, check_positive, check_rotary, hidden_width


@dataclasses.dataclass(frozen=True)
class WordPooledConfig(Stacked, Ruled):
    """Sizes of a word-pooled model; None takes the usual proportion. The plain names are the word level's."""

    rule: str = "closing"  # docs/word_pooled.md says what was measured
    cap: int = words.CAP  # C, most symbols of a word
    words: int = 512  # W, most words of a row; bytes that would need more carry no loss
    layers: int = 8
    width: int = 512
    heads: int = 8
    key_heads: int | None = None  # default: as many as heads
    head_width: int | None = None  # default: width / heads
    mlp_width: int | None = None  # default: 8/3 width, rounded up to a multiple of 64
    byte_width: int = 128
    byte_heads: int = 2
    byte_mlp_width: int | None = None  # default as above
    encoder_layers: int = 1
    decoder_layers: int = 2
    span: int = 1  # words whose bytes a byte sees at byte level, its own included
    pooling: Literal["last", "mean", "attention", "prefix"] = "last"
    vectors: int = 1  # P, positions of the word level a word has; more with attention and prefix only
    parts: int = 4  # linear maps of a word's vector, for the first, second, ... byte after it
    embedding: Literal["learned", "bits"] = "learned"
    ngrams: int = 0  # rows of a hashed table whose vectors for n-grams of 3 to 8 bytes are added; 0: none
    lexinvariant: float = 0.0  # the share of training sequences with a fresh Gaussian table each
    byte_rate: float = 1.0  # multiples of the learning rate at byte level
    word_rate: float = 1.0  # and at word level
    isolate_documents: bool = True
    dropout: float = 0.0
    rope_base: float = 10_000.0
    remat: Literal["none", "dots", "full"] = "none"  # what is computed again in the backward pass
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of the compute; auto: float32 on CPU

    def __post_init__(self) -> None:
        self.check_stack("words", "byte_width", "byte_heads", "byte_mlp_width", "encoder_layers")
        check_positive(self, "decoder_layers", "span", "parts")
        for name in ("byte_rate", "word_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"model.{name} must be positive, got {getattr(self, name)}")
        self.check_rule()
        check_heads(self, "byte_")
        check_rotary("head_width", self.H)
        check_rotary("byte_width / byte_heads", self.byte_sizes.head_width)
        if not 1 <= self.vectors <= (1 if self.pooling in ("last", "mean") else 4):
            raise ValueError(f"model.vectors {self.vectors}: pooling {self.pooling!r} makes 1"
                             + (" to 4" if self.pooling in ("attention", "prefix") else ""))  # fmt: skip
        if not 0.0 <= self.lexinvariant <= 1.0:
            raise ValueError(f"model.lexinvariant must be in [0, 1], got {self.lexinvariant}")
        if self.ngrams < 0:
            raise ValueError(f"model.ngrams must be 0 or more, got {self.ngrams}")

    @property
    def byte_sizes(self) -> Sizes:
        """Of a layer at byte level; `sizes` are the word level's."""
        D, N, hidden = self.byte_width, self.byte_heads, self.byte_mlp_width or hidden_width(self.byte_width)
        return Sizes(D, N, N, D // N, hidden, self.rope_base, self.dropout)

    @property
    def reach(self) -> int:
        """How many positions a byte may see at byte level."""
        return self.span * self.cap
