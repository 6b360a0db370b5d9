"""python train.py byte2word_mlm_bpe

`byte2word_mlm` with sub-words as targets: those of a BPE that the run trains first, as `bert_bpe` does.
`--data.tokenizer.path TOKENIZER.json` takes another vocabulary, a WordPiece's too.
"""

from bytelm.config import Checkpoints, Config, Data, Evaluation, Optimizer, Training
from bytelm.data import Bpe
from bytelm.models import MaskedByte2WordConfig

config = Config(
    model=MaskedByte2WordConfig(
        rule="runs", words=640, predictions=320, layers=3, width=256, heads=4, byte_width=128
    ),
    data=Data(row=2048, piece=2048, tokenizer=Bpe(size=8192)),
    optimizer=Optimizer(name="muon", learning_rate=1.5e-2, warmup=20, final=0.02),
    training=Training(steps=250, rows=2, log_every=10),
    evaluation=Evaluation(every=125, max_bytes=65_536, final_max_bytes=2**20),
    checkpoints=Checkpoints(every=125),
)
