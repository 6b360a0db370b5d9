"""python train.py paper --data.source.paths tinyshakespeare.txt

Learn Your Tokens as published (docs/learn_your_tokens.md): 39 million parameters, about 192 words of context,
AdamW at 1e-4 in batches of 2. The last tenth is held out. Made for a GPU; on two cores days.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import LearnYourTokensConfig

config = Config(
    model=LearnYourTokensConfig(words=256),
    data=Data(
        source=Files(paths=("tinyshakespeare.txt",), split="tail", valid_fraction=0.1), row=940, piece=940
    ),
    optimizer=Optimizer(name="adamw", learning_rate=1e-4, warmup=0, schedule="constant", weight_decay=0.1),
    training=Training(steps=20_000, rows=2, log_every=50),
    evaluation=Evaluation(every=1000, max_bytes=32_768, rows=16),
    samples=Samples(prompts=("ROMEO:\n",), max_bytes=200),
    checkpoints=Checkpoints(every=1000),
)
