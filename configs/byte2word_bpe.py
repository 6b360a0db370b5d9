"""python train.py byte2word_bpe

`byte2word` with sub-words as targets: those of a BPE that the run trains first, on its own training split.
Its words are `runs`, which begin with the space as the sub-words do. `--data.tokenizer.path TOKENIZER.json`
takes another vocabulary, a WordPiece's too. The training figure is an upper bound (docs/byte2word.md).
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Samples, Training
from bytelm.data import Bpe
from bytelm.models import Byte2WordConfig

config = Config(
    model=Byte2WordConfig(rule="runs", words=640, layers=3, width=256, heads=4, byte_width=128),
    data=Data(row=2048, piece=2048, tokenizer=Bpe(size=8192)),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20),
    samples=Samples(max_bytes=100),
    checkpoints=Checkpoints(every=125),
)
