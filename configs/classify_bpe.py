"""python train.py classify_bpe --init-from runs/bpe --data.tokenizer.path runs/bpe --data.source.train TRAIN
    --data.source.valid TEST

`classify` with the tokenized baseline: it begins from a run of `bpe`, and reads that run's tokens.
"""

import dataclasses

from bytelm.config import Data
from bytelm.data import Bpe
from bytelm.models import ClassifierConfig
from configs.bpe import config as bpe
from configs.classify import config as classify

config = dataclasses.replace(
    classify,
    model=ClassifierConfig(backbone=bpe.model, dropout=0.1),
    data=Data(source=classify.data.source, row=1024, tokenizer=Bpe(size=8192)),
)
