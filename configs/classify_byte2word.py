"""python train.py classify_byte2word --data.source.train TRAIN --data.source.valid TEST

`classify_bert` with Byte2Word as the encoder, small, from scratch: 61 % of held-out movie
reviews right after 3 epochs, two minutes of one core (docs/classification.md). To begin from a run of
`byte2word_mlm`, train that with `--model.layers 1 --model.width 128 --model.heads 2 --model.words 608
--model.byte-width 64 --model.byte-heads 4 --model.queries 4`, and add `--init-from runs/byte2word_mlm`.
"""

import dataclasses

from bytelm.models import ClassifierConfig
from configs.byte2word_mlm import config as encoder
from configs.classify import config as classify

model = dataclasses.replace(
    encoder.model, words=608, layers=1, width=128, heads=2, byte_width=64, byte_heads=4, queries=4
)

config = dataclasses.replace(
    classify,
    model=ClassifierConfig(backbone=model, dropout=0.1, gain=20.0, centring=0.3),
    data=dataclasses.replace(classify.data, row=2048),
    optimizer=dataclasses.replace(classify.optimizer, learning_rate=2e-3),
    training=dataclasses.replace(classify.training, steps=120, rows=32),
    evaluation=dataclasses.replace(classify.evaluation, every=40),
)
