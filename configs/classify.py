"""python train.py classify --init-from runs/default --data.source.train TRAIN --data.source.valid TEST

Tells apart documents, JSON lines `{"text": ..., "label": ...}` (`.jsonl`, `.jsonl.gz`), beginning from a run
of `default`; of another run, give its sizes as `--model.backbone...`. At the scale of 2,000 movie reviews
of 4 kB on two cores. Without `--init-from` the backbone starts from scratch.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Files
from bytelm.models import ClassifierConfig
from configs.default import config as default

config = Config(
    model=ClassifierConfig(backbone=default.model, dropout=0.1),
    data=Data(source=Files(label="label"), row=2048),
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, warmup=20, final=0.02),
    training=Training(steps=200, rows=8, log_every=10),
    evaluation=Evaluation(every=50, max_bytes=None),
    samples=Samples(prompts=()),
    checkpoints=Checkpoints(every=50),
)
