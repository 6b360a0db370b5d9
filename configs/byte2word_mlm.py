"""python train.py byte2word_mlm

Byte2Word as an encoder (docs/byte2word.md): 15 % of the words are hidden, and their bytes predicted. The data
and scale of `default`. `byte2word_mlm_bpe` predicts their sub-words.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.models import MaskedByte2WordConfig

config = Config(
    model=MaskedByte2WordConfig(rule="runs", words=640, layers=3, width=256, heads=4, byte_width=128),
    data=Data(row=2048, piece=2048),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20),
    checkpoints=Checkpoints(every=125),
)
