"""python train.py flat_100m --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

The flat byte baseline of `words_100m`, 99 million parameters, on the same data, rows and mesh:
1, 8 or 256 devices with A = 128, 16, 1. Speed as planned: docs/scale.md; not run yet.
"""

import dataclasses

from bytelm.models import ByteTransformerConfig
from configs.words_100m import config as words

config = dataclasses.replace(words, model=ByteTransformerConfig(layers=14, width=768, heads=12, remat="full"))
