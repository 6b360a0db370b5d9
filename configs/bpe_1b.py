"""python train.py bpe_1b --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

The BPE baseline of `words_1b`, 1.3 billion parameters, on the same data and mesh, in rows of 2,048
tokens, about as many bytes as its rows: 1, 8 or 256 devices with A = 64, 16, 1. Not run yet.
"""

import dataclasses

from bytelm.data import Bpe
from bytelm.models import TokenLMConfig
from configs.words_1b import config as words

config = dataclasses.replace(
    words,
    model=TokenLMConfig(layers=24, width=2048, heads=16, context=2048, tied=False, remat="full"),
    data=dataclasses.replace(words.data, row=2048, tokenizer=Bpe(size=32_768)),
)
