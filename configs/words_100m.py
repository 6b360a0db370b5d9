"""python train.py words_100m --data.source.paths FILE_OR_FOLDER ... --training.accumulate A

A word-pooled model of 104 million parameters, rows of 8,192 bytes, 2 MB a step; the 20,000 steps read 42 GB.
The mesh is copies of the whole model on 1, 8 or 256 devices, with A = 32, 4, 1. One H100: about 11 hours
at 40 % of its peak (`python scripts/plan.py words_100m --devices 1 --training.accumulate 32`); not run yet.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.data import Files
from bytelm.models import WordPooledConfig

config = Config(
    model=WordPooledConfig(
        rule="closing", words=1792, layers=14, width=768, heads=12, byte_width=256, byte_heads=4,
        encoder_layers=2, decoder_layers=3, remat="full",
    ),
    data=Data(source=Files(paths=()), row=8192, piece=65_536),
    optimizer=Optimizer(name="muon", learning_rate=5e-3, warmup=500, final=0.02),
    training=Training(steps=20_000, rows=256, log_every=10),
    evaluation=Evaluation(every=1000, max_bytes=2**23, rows=256),
    checkpoints=Checkpoints(every=1000),
)  # fmt: skip
