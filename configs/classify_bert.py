"""python train.py classify_bert --init-from runs/bert_bpe --data.tokenizer.path runs/bert_bpe
    --data.source.train TRAIN --data.source.valid TEST

`classify` with BERT's shape over sub-words: it begins from a run of `bert_bpe`, and reads that run's pieces.
"""

import dataclasses

from bytelm.data import Bpe
from bytelm.models import ClassifierConfig
from configs.bert_bpe import config as encoder
from configs.classify import config as classify

config = dataclasses.replace(
    classify,
    model=ClassifierConfig(backbone=encoder.model, dropout=0.1),
    data=dataclasses.replace(classify.data, tokenizer=Bpe(size=8192)),
)
