"""Data: sources of documents, the training stream, held-out batches, and data sets on disk.

source = Stdlib()                                  # or Files(...), Tfds(...), Mix((...), weights)
with train_stream(source.open("train"), rows=8, length=4096, seed=0) as stream:
    batch = next(stream)                           # inputs, targets, documents: [8, 4096]
    state = stream.get_state()                     # JSON; set_state goes on to the byte
for batch in eval_rows(source.open("valid"), rows=8, length=4096): ...
"""

from bytelm.data.coding import ByteCoding, TokenCoding
from bytelm.data.documents import SPLITS, Documents, Split, Table
from bytelm.data.files import Files
from bytelm.data.fim import Fim
from bytelm.data.heldout import eval_rows
from bytelm.data.labelled import LabelCoding, known_labels
from bytelm.data.packing import Batch
from bytelm.data.pipeline import TrainStream, merge_states, train_stream
from bytelm.data.prepare import Counts, prepare
from bytelm.data.sources import AnySource, Mix, Mixture, Source
from bytelm.data.stdlib import Stdlib
from bytelm.data.tfds_source import Tfds
from bytelm.data.tokenizer import Bpe
from bytelm.data.tokens import Tokens

__all__ = [
    "SPLITS",
    "AnySource",
    "Batch",
    "Bpe",
    "ByteCoding",
    "Counts",
    "Documents",
    "Files",
    "Fim",
    "LabelCoding",
    "Mix",
    "Mixture",
    "Source",
    "Split",
    "Stdlib",
    "Table",
    "Tfds",
    "TokenCoding",
    "Tokens",
    "TrainStream",
    "eval_rows",
    "known_labels",
    "merge_states",
    "prepare",
    "train_stream",
]
