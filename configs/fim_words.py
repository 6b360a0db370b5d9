"""python train.py fim_words

The default's word-pooled model of bytes, trained to fill in the middle of Python: the standard library and
the packages installed beside bytelm, half of the bytes each, with nine pieces of ten rearranged, half
of them as suffix, prefix, middle. `bytelm fim` takes the run. Pieces leave room in a row for their sentinels.
The held-out bytes begin with the standard library's. At most 20 minutes on two cores; on a GPU raise
`--training.steps` and `--training.rows`.
"""

import dataclasses
import sysconfig

from bytelm.config import Checkpoints, Evaluation, Training
from bytelm.data import Files, Fim, Mix, Stdlib
from configs.default import config as default

python = Mix((Stdlib(), Files(paths=(f"{sysconfig.get_path('purelib')}/**/*.py",))))

config = dataclasses.replace(
    default,
    data=dataclasses.replace(default.data, source=python, piece=1024, fim=Fim(rate=0.9, spm=0.5)),
    training=Training(steps=2000, rows=2, log_every=10),
    evaluation=Evaluation(every=300, max_bytes=65_536, final_max_bytes=2**20, marks=True),
    checkpoints=Checkpoints(every=250),
)
