"""python train.py files --data.source.paths FILE_OR_FOLDER ...

The default model on files of your own: text, code or binary, `.jsonl`, `.parquet`; 5 % of the documents are
held out by a hash of their content. For one large file add `--data.source.split tail`.
"""

import dataclasses

from bytelm.config import Data
from bytelm.data import Files
from configs.default import config as default

config = dataclasses.replace(default, data=Data(source=Files(paths=()), row=2048, piece=2048))
