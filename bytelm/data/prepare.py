"""Any source -> a TFDS data set on disk, without TensorFlow, for corpora larger than memory."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bytelm.data.documents import Documents, utf8_cut
from bytelm.data.sources import Source
from bytelm.data.tfds_source import lengths_file

VERSION = "1.0.0"
TFDS_SPLIT = {"train": "train", "valid": "validation", "test": "test"}
LARGEST = 2**30  # bytes; a record is one protocol buffer, which ends at 2 GiB

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What one split holds; `bytes` are those of the documents, not of the files."""

    documents: int
    bytes: int


def prepare(
    source: Source,
    out_dir: str | os.PathLike[str],
    *,
    name: str,
    shard_bytes: int = 2**28,
    max_document: int | None = None,
    progress: bool = True,
) -> dict[str, Counts]:
    """Writes all splits of a source as the TFDS data set `name`, version 1.0.0, in `out_dir`.

    `Tfds(name, data_dir=out_dir)` reads it, and so does `tfds.data_source(name, data_dir=out_dir)`, whose
    splits are `train`, `validation` and `test` with one feature `text`: the documents' bytes, any bytes, in
    the source's order. Lengths are stored beside, so `Tfds` can cut documents into pieces.

    The data set appears whole or not at all: it is written in a hidden folder of `out_dir`, which is moved to
    its place at the end and removed after an error.

    Args:
      shard_bytes: a file of a split is closed when it holds so many bytes of documents.
      max_document: training documents are cut into documents of at most so many bytes, not inside a UTF-8
        character. A record is always read whole, so cut where documents are larger than a few megabytes
        and training takes pieces of them. Held-out documents stay whole.
      progress: a progress bar, if standard error is a terminal.

    Returns the counts of each split written. Raises ValueError for a bad argument, FileExistsError if the
    data set is there, and what the source raises.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"prepare: name {name!r} must be lower-case letters, digits and _, a letter first")
    if name in _names_of_tfds():  # whose code would then read these files by its own features
        raise ValueError(f"prepare: {name!r} is a data set of TFDS itself; take another name")
    if shard_bytes < 1:
        raise ValueError(f"prepare: shard_bytes is {shard_bytes}; it is at least 1")
    if max_document is not None and not 4 <= max_document <= LARGEST:
        raise ValueError(f"prepare: max_document is {max_document}; it is 4 to {LARGEST} bytes, or None")
    if not source.splits:
        raise ValueError(f"prepare: {source} has no split")
    out = Path(out_dir).expanduser()
    final = out / name / VERSION
    if final.exists():
        raise FileExistsError(f"prepare: {final} is there already; remove it or take another name or folder")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f".{name}.incomplete.*"):
        log.warning(
            "prepare: %s is left from a run that was killed, or is being written; remove it if not", old
        )
    work = Path(tempfile.mkdtemp(prefix=f".{name}.incomplete.", dir=out))
    try:
        counts, infos = {}, []
        for split in source.splits:
            documents = source.open(split)
            limit = max_document if split == "train" else None
            shards = _Shards(work, name, TFDS_SPLIT[split], shard_bytes)
            with tqdm(
                total=len(documents),
                desc=f"{name} {split}",
                unit=" documents",
                disable=None if progress else True,
            ) as bar:
                shards.write(_parts(documents, limit, bar))
            infos.append(shards.finish())
            counts[split] = Counts(len(shards.lengths), sum(shards.lengths))
        _write_metadata(work, name, infos, description=f"Documents of {source}.")
        work.chmod(0o777 & ~_umask())  # mkdtemp's folder is the owner's alone
        final.parent.mkdir(exist_ok=True)
        os.rename(work, final)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return counts


def _parts(documents: Documents, limit: int | None, bar: Any) -> Iterator[bytes]:
    """The documents in order, cut at the limit, empty ones left out (their source counts them)."""
    for i in range(len(documents)):
        if documents.lengths is None or not documents.sliceable:
            data = documents[i]
            size, read = len(data), lambda start, stop, data=data: data[start:stop]
        else:
            size, read = documents.lengths.item(i), lambda start, stop, i=i: documents.read(i, start, stop)
        if limit is None and size > LARGEST:
            raise ValueError(
                f"prepare: {documents.name}: document {i} has {size:,} bytes, more than a record can hold "
                f"({LARGEST:,}); set max_document, or for held-out data cut it yourself"
            )
        start = 0
        while start < size:
            stop = utf8_cut(read, min(size, start + (limit or size)), size)
            yield read(start, stop)
            start = stop
        bar.update()


class _Shards:
    """The files of one split, and the lengths of its documents."""

    def __init__(self, folder: Path, name: str, split: str, shard_bytes: int):
        import tensorflow_datasets as tfds  # heavy

        self.lengths: list[int] = []
        self._split, self._folder, self._shard_bytes = split, folder, shard_bytes
        self._template = tfds.core.ShardedFileTemplate(
            dataset_name=name, data_dir=folder, split=split, filetype_suffix="array_record"
        )
        self._counts: list[int] = []
        self._record_bytes = 0

    def write(self, documents: Iterator[bytes]) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter
        from tensorflow_datasets.proto import tf_example_pb2

        writer, held = None, 0
        try:
            for data in documents:
                if writer is None:
                    # One record a group: a record is fetched without its neighbours.
                    writer = ArrayRecordWriter(str(self._part(len(self._counts))), "group_size:1")
                    self._counts.append(0)
                    held = 0
                example = tf_example_pb2.Example()
                example.features.feature["text"].bytes_list.value.append(data)
                record = example.SerializeToString()
                writer.write(record)
                self.lengths.append(len(data))
                self._counts[-1] += 1
                self._record_bytes += len(record)
                held += len(data)
                if held >= self._shard_bytes:
                    writer.close()
                    writer = None
        finally:
            if writer is not None:
                writer.close()

    def finish(self) -> Any:
        """Names the files by their number, now known, and stores the lengths. Returns a `SplitInfo`."""
        import tensorflow_datasets as tfds

        if not self.lengths:
            raise ValueError(f"prepare: split {self._split} holds no document but empty ones")
        total = len(self._counts)
        for shard in range(total):
            self._part(shard).rename(self._template.sharded_filepath(shard_index=shard, num_shards=total))
        np.save(self._folder / lengths_file(self._split), np.array(self.lengths, np.int64))
        return tfds.core.SplitInfo(
            name=self._split,
            shard_lengths=self._counts,
            num_bytes=self._record_bytes,
            filename_template=self._template,
        )

    def _part(self, shard: int) -> Path:
        return self._folder / f"{self._split}.{shard}.part"


def _names_of_tfds() -> frozenset[str]:
    import tensorflow_datasets as tfds

    return frozenset(tfds.list_builders(with_community_datasets=False))


def _write_metadata(folder: Path, name: str, infos: list[Any], description: str) -> None:
    import tensorflow_datasets as tfds

    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        split_infos=infos,
        filename_template=None,
        version=VERSION,
        description=description,
        check_data=False,  # the check reads through TensorFlow
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
