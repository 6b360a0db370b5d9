"""python train.py byte2word

Byte2Word, causal, with bytes as targets (docs/byte2word.md): the data, scale and length of training of
`default`. The symbols of a word are predicted independently of each other, which costs bits and buys a
model without any layer at byte level.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.models import Byte2WordConfig

config = Config(
    model=Byte2WordConfig(rule="closing", words=448, layers=3, width=256, heads=4, byte_width=128),
    data=Data(row=2048, piece=2048),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=125),
)
