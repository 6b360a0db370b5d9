"""python train.py tinyshakespeare --data.source.paths tinyshakespeare.txt

Tiny Shakespeare with nanoGPT's split, the last tenth held out, at the budget of its recipe for a laptop
(about three minutes on two cores, where that recipe reports 1.88 nats a byte).
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=4, width=128, heads=2),
    data=Data(
        source=Files(paths=("tinyshakespeare.txt",), split="tail", valid_fraction=0.1), row=256, piece=1024
    ),
    optimizer=Optimizer(name="muon", learning_rate=1e-2, warmup=20, final=0.02),
    training=Training(steps=380, rows=8, log_every=10),
    evaluation=Evaluation(every=100, max_bytes=32_768, rows=32),
    samples=Samples(prompts=("ROMEO:\n",)),
    checkpoints=Checkpoints(every=100),
)
