"""python train.py fim_bpe

The BPE baseline trained to fill in the middle, on the sources of `fim_words`: prefix and middle are tokenized
together in the order suffix, prefix, middle, which is where a prompt that ends inside a token is out of place
(docs/fim.md). `bytelm fim` and `scripts/fim_bias.py` take the run. At most 20 minutes on two cores.
"""

import dataclasses

from bytelm.config import Checkpoints, Evaluation, Training
from bytelm.data import Bpe, Fim
from configs.bpe import config as bpe
from configs.fim_words import python

config = dataclasses.replace(
    bpe,
    data=dataclasses.replace(
        bpe.data, source=python, piece=1024, tokenizer=Bpe(size=2048), fim=Fim(rate=0.9, spm=0.5)
    ),
    training=Training(steps=2000, rows=2, log_every=10),
    evaluation=Evaluation(every=500, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=250),
)
