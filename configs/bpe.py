"""python train.py bpe

The BPE baseline: `flat`'s backbone and data, read as tokens of a byte-level BPE of 8,192 that the run
trains first, on its own training split, into its folder. `--data.tokenizer.size 2048` (any size) or
`--data.tokenizer.path TOKENIZER.json` takes another. Its bits per byte are of canonical tokens, over the same
held-out bytes as a byte model's. The decoder is of the Qwen 3 family, so `bytelm export` can write it.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.data import Bpe
from bytelm.models import TokenLMConfig

config = Config(
    model=TokenLMConfig(layers=3, width=128, heads=2, window=128, context=65_536),
    data=Data(row=1024, piece=2048, tokenizer=Bpe(size=8192)),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=125),
)
