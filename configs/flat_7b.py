"""python train.py flat_7b --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

The flat byte baseline of `words_7b`, 6.5 billion parameters, on the same data, rows and mesh:
1, 8 or 256 devices with A = 256, 32, 1. Speed as planned: docs/scale.md; not run yet.
"""

import dataclasses

from bytelm.models import ByteTransformerConfig
from configs.words_7b import config as words

config = dataclasses.replace(
    words, model=ByteTransformerConfig(layers=32, width=4096, heads=32, remat="full")
)
