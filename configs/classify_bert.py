"""python train.py classify_bert --data.source.train TRAIN --data.source.valid TEST

BERT's shape over sub-words, small, from scratch: those of a BPE that the run trains first on the documents.
75 % of held-out movie reviews right after 3 epochs, two and a half minutes of one core
(docs/classification.md). To begin from a run of `bert_bpe`, train that with `--model.layers 1 --model.width
128 --model.heads 2 --model.units 736 --data.tokenizer.size 2048`, and add `--init-from runs/bert_bpe
--data.tokenizer.path runs/bert_bpe`.
"""

import dataclasses

from bytelm.data import Bpe
from bytelm.models import ClassifierConfig
from configs.bert_bpe import config as encoder
from configs.classify_byte2word import config as classify

model = dataclasses.replace(encoder.model, units=736, layers=1, width=128, heads=2)

config = dataclasses.replace(
    classify,
    model=ClassifierConfig(backbone=model, dropout=0.1, gain=20.0, centring=0.3),
    data=dataclasses.replace(classify.data, tokenizer=Bpe(size=2048)),
)
