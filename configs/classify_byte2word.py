"""python train.py classify_byte2word --init-from runs/byte2word_mlm --data.source.train TRAIN
    --data.source.valid TEST

`classify` with Byte2Word as an encoder: it begins from a run of `byte2word_mlm`.
"""

import dataclasses

from bytelm.models import ClassifierConfig
from configs.byte2word_mlm import config as encoder
from configs.classify import config as classify

config = dataclasses.replace(classify, model=ClassifierConfig(backbone=encoder.model, dropout=0.1))
