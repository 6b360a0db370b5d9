"""python train.py fim_words

The default's word-pooled model of bytes, trained to fill in the middle: nine pieces of ten are rearranged,
half of them as suffix, prefix, middle. `bytelm fim` takes the run. Pieces leave room in a row for their
sentinels. At most 20 minutes on two cores; on a GPU raise `--training.steps` and `--training.rows`.
"""

import dataclasses

from bytelm.config import Checkpoints, Evaluation, Training
from bytelm.data import Fim
from configs.default import config as default

config = dataclasses.replace(
    default,
    data=dataclasses.replace(default.data, piece=1024, fim=Fim(rate=0.9, spm=0.5)),
    training=Training(steps=2000, rows=2, log_every=10),
    evaluation=Evaluation(every=300, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=250),
)
