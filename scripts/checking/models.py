"""The byte models that are checked, and made-up text for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from bytelm.models import ByteTransformerConfig, WordPooledConfig

WORDS_100M = {"words": 1792, "layers": 14, "width": 768, "heads": 12, "byte_width": 256, "byte_heads": 4,
              "encoder_layers": 2, "decoder_layers": 3}  # fmt: skip
WORDS_1B = {"words": 1792, "layers": 25, "width": 2048, "heads": 16, "byte_width": 512, "byte_heads": 8,
            "encoder_layers": 3, "decoder_layers": 3, "remat": "full"}  # fmt: skip


def flat(layers: int, width: int, **how: Any) -> ByteTransformerConfig:
    return ByteTransformerConfig(layers=layers, width=width, heads=max(2, width // 64), **how)


def words(tiny: bool, **how: Any) -> WordPooledConfig:
    small = {"layers": 1, "width": 32, "heads": 2, "byte_width": 16, "byte_heads": 2, "words": 32}
    return WordPooledConfig(**(how | small if tiny else how))


def batch(rows: int, row: int, seed: int, vocabulary: int | None = None) -> dict[str, np.ndarray]:
    """Rows of made-up text, words of 1 to 9 letters, documents of about 1,000 symbols; or of tokens."""
    random = np.random.default_rng(seed)
    shape = (rows, row + 1)
    documents = 1 + np.cumsum(random.random((rows, row)) < 1e-3, axis=1).astype(np.int32)
    if vocabulary is not None:
        tokens = random.integers(0, vocabulary, shape).astype(np.int32)
        sizes = np.full((rows, row), 4, np.uint16)
        whole = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "documents": documents}
        return whole | {"bytes": sizes, "ends": np.zeros((rows, row), bool)}
    letters = random.integers(97, 123, shape)
    symbols = np.where(random.random(shape) < 0.18, 32, letters).astype(np.uint16)
    return {"inputs": symbols[:, :-1], "targets": symbols[:, 1:], "documents": documents}
