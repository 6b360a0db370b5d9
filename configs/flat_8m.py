"""python train.py flat_8m

The flat byte Transformer at 7.3 million parameters, on the standard library: the model whose speed
`scripts/bench_train.py` measures. Hours on two cores, minutes on a GPU.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.models import ByteTransformerConfig

config = Config(
    model=ByteTransformerConfig(layers=4, width=384, heads=6),
    data=Data(row=2048, piece=8192),
    optimizer=Optimizer(name="muon", learning_rate=5e-3, warmup=100),
    training=Training(steps=3000, rows=16),
    evaluation=Evaluation(every=250, marks=True),
    checkpoints=Checkpoints(every=250),
)
