"""python train.py flat_1b --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

The flat byte baseline of `words_1b`, 1.3 billion parameters, on the same data, rows and mesh:
1, 8 or 256 devices with A = 256, 32, 1. Speed as planned: docs/scale.md; not run yet.
"""

import dataclasses

from bytelm.models import ByteTransformerConfig
from configs.words_1b import config as words

config = dataclasses.replace(
    words, model=ByteTransformerConfig(layers=25, width=2048, heads=16, remat="full")
)
