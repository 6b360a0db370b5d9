"""python train.py flat

A small flat byte Transformer on the sources of Python's own standard library: real text, no download.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=3, width=128, heads=2, window=128),
    data=Data(row=2048, piece=2048),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=125),
)
