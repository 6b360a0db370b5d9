"""python train.py bpe_100m --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

The BPE baseline of `words_100m`, 103 million parameters, on the same data and mesh, in rows of 2,048
tokens, about as many bytes as its rows: 1, 8 or 256 devices with A = 32, 4, 1. Not run yet.
"""

import dataclasses

from bytelm.data import Bpe
from bytelm.models import TokenLMConfig
from configs.words_100m import config as words

config = dataclasses.replace(
    words,
    model=TokenLMConfig(layers=11, width=768, heads=12, context=2048, tied=True, remat="full"),
    data=dataclasses.replace(words.data, row=2048, tokenizer=Bpe(size=32_768)),
)
