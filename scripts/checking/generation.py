"""The speed of generating given bytes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from checking.models import WORDS_100M, batch, flat, words
from forced import PROMPT, forced


def generate(tiny: bool) -> dict[str, Any]:
    """Bytes a second of a batch, the 100M word-pooled model and the flat one, after prompts of 64 bytes."""
    length, found = (8, {}) if tiny else (512, {})
    models = {"words": words(tiny, **WORDS_100M), "flat": flat(1, 32) if tiny else flat(14, 768)}
    for name, config in models.items():
        for rows in (1, 2) if tiny else (1, 64):
            text_BT = batch(rows, PROMPT + length, 5)["inputs"].astype(np.int32)
            run = forced(config, text_BT, 128 if tiny else 2048)
            run()
            began = time.perf_counter()
            run()
            found[f"{name}, batch {rows}, B/s"] = rows * length / (time.perf_counter() - began)
    return found
