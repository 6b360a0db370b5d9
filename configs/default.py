"""python train.py

A flat byte Transformer on the sources of Python's own standard library.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=4, width=128, heads=2, window=256),
    data=Data(row=2048, piece=8192),
    optimizer=Optimizer(name="muon", learning_rate=1e-2, warmup=20),
    training=Training(steps=300, rows=8, log_every=10),
    evaluation=Evaluation(every=100, max_bytes=131_072, marks=True),
    checkpoints=Checkpoints(every=100),
)
