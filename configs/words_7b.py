"""python train.py words_7b --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

A word-pooled model of 6.5 billion parameters. The mesh cuts parameters over all devices, 1, 8 or 256 of them,
with A = 256, 32, 1; one H100 does not hold it. Made for hundreds of H100s or TPUs (docs/scale.md); not run.
"""

import dataclasses

from bytelm.models import WordPooledConfig
from configs.words_1b import config as middle

config = dataclasses.replace(
    middle,
    model=WordPooledConfig(
        rule="closing", words=1792, layers=32, width=4096, heads=32, byte_width=1024, byte_heads=16,
        encoder_layers=3, decoder_layers=3, remat="full",
    ),
    optimizer=dataclasses.replace(middle.optimizer, learning_rate=1e-3, warmup=2000),
)  # fmt: skip
