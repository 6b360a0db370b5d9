"""python train.py words_1b --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

A word-pooled model of 1.3 billion parameters: 3 layers of 512 over bytes on each side, 25 of 2,048 over words
The mesh cuts parameters over all devices, 1, 8 or 256 of them, with A = 64, 16, 1. Made for 8 H100 and more
(docs/scale.md has memory and speed as planned); not run yet.
"""

import dataclasses

from bytelm.models import WordPooledConfig
from bytelm.sharding import MeshShape
from configs.words_100m import config as small

config = dataclasses.replace(
    small,
    model=WordPooledConfig(
        rule="closing", words=1792, layers=25, width=2048, heads=16, byte_width=512, byte_heads=8,
        encoder_layers=3, decoder_layers=3, remat="full",
    ),
    optimizer=dataclasses.replace(small.optimizer, learning_rate=2e-3, warmup=1000),
    mesh=MeshShape(data=1, fsdp=-1),
)  # fmt: skip
