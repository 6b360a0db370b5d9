"""python train.py paper_small

Learn Your Tokens as published (docs/learn_your_tokens.md) at the scale of `default`, with its data and
optimizer: four vectors a word, post-norm layers within words, an end-of-word symbol. `paper` has the sizes
and the rate of learning of the paper, at which minutes on two cores teach nothing.
"""

import dataclasses

from bytelm.config import Data, Training
from bytelm.models import LearnYourTokensConfig
from configs.default import config as default

config = dataclasses.replace(
    default,
    model=LearnYourTokensConfig(
        words=256, layers=3, width=192, heads=3, encoder_heads=3, mlp_width=768, dropout=0.0
    ),
    data=Data(row=940, piece=940),
    training=Training(steps=400, rows=4, log_every=10),
)
