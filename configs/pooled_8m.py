"""python train.py pooled_8m

The word-pooled model whose word level is as deep and wide as the flat model of `flat_8m`, on the standard
library: the model whose speed `scripts/bench_words.py` and `scripts/bench_generate.py` measure.
"""

import dataclasses

from bytelm.models import WordPooledConfig
from configs.flat_8m import config as flat

config = dataclasses.replace(flat, model=WordPooledConfig(words=448, layers=4, width=384, heads=6))
