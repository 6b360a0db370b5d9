"""Documents from TensorFlow Datasets, read without TensorFlow through array_record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bytelm.data.documents import check_split


def lengths_file(split: str) -> str:
    """The name, beside a data set's records, of an int64 [N] array: bytes of every document of a split.

    `prepare` writes it. TFDS itself knows nothing of it and other data sets have none.
    """
    return f"{split}.lengths.npy"


@dataclass(frozen=True)
class Tfds:
    """A TFDS data set by name (`name`, `name/config`, `name:version`), prepared as array_record.

    `train`, `valid` and `test` are split expressions of TFDS, such as `train[:90%]` or `train+test`; an empty
    one means that there is no such split. `field` is a text feature, nested ones as `outer/inner`.
    Lengths are known for data sets that `prepare` wrote, else only documents as a whole can be trained on.
    """

    name: str
    data_dir: str | None = None
    """The folder of all data sets; None: TFDS_DATA_DIR or ~/tensorflow_datasets."""
    field: str = "text"
    train: str = "train"
    valid: str = "validation"
    test: str = "test"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(name for name in ("train", "valid", "test") if getattr(self, name))

    def open(self, split: str) -> TfdsDocuments:
        """Opens a split; reads no document.

        Raises FileNotFoundError if the data set is not there or not prepared, ValueError if it is not
        array_record, and for an unknown split or field.
        """
        check_split(split, self.splits, f"Tfds({self.name})")
        builder = self._builder()
        self._check_field(builder.info.features)
        expression = getattr(self, split)
        try:
            instructions = builder.info.splits[expression].file_instructions
            # An array_record source refuses to be empty, in words of its own.
            records = instructions and builder.as_data_source(
                split=expression, deserialize_method=_raw_bytes()
            )
        except (ValueError, KeyError) as error:
            known = ", ".join(builder.info.splits)
            raise ValueError(
                f"Tfds({self.name}): cannot read {split} = {expression!r} ({_first_line(error)}); "
                f"it has the splits {known}, which can be sliced as in 'train[:90%]'"
            ) from error
        if not len(records):
            raise ValueError(f"Tfds({self.name}): {split} = {expression!r} holds no document")
        lengths = _stored_lengths(builder, instructions)
        if lengths is not None and len(lengths) != len(records):
            raise ValueError(
                f"Tfds({self.name}): {len(records)} records but {len(lengths)} stored lengths in "
                f"{builder.data_path}; prepare the data set again"
            )
        return TfdsDocuments(f"Tfds({self.name}) {expression}", records, self.field, lengths)

    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # heavy

        where = f"in {self.data_dir}" if self.data_dir else "in TFDS_DATA_DIR or ~/tensorflow_datasets"
        advice = (
            f"run tfds.builder({self.name!r}, file_format='array_record').download_and_prepare(), "
            f"or write your own documents with `prepare`"
        )
        try:
            builder = tfds.builder(self.name, data_dir=self.data_dir)
        except tfds.core.DatasetNotFoundError as error:
            raise FileNotFoundError(f"Tfds: no data set {self.name!r} {where}; {advice}") from error
        if not builder.info.splits:
            raise FileNotFoundError(f"Tfds: data set {self.name!r} is not prepared {where}; {advice}")
        formats = {one.value for one in builder.info.available_file_formats()}
        if "array_record" not in formats:
            raise ValueError(
                f"Tfds: data set {self.name!r} in {builder.data_path} is {', '.join(sorted(formats))}, "
                f"which has no random access without TensorFlow; {advice}"
            )
        return builder

    def _check_field(self, features: Any) -> None:
        known = features.get_serialized_info()
        flat = dict(_flatten(known))
        if self.field not in flat:
            raise ValueError(f"Tfds({self.name}): no field {self.field!r}; it has {', '.join(sorted(flat))}")
        info = flat[self.field]
        if info.shape != () or np.dtype(info.np_dtype).kind not in "OSU":
            raise ValueError(
                f"Tfds({self.name}): field {self.field!r} is {info.np_dtype} of shape {info.shape}, "
                f"not a string"
            )


@dataclass(frozen=True, eq=False)
class TfdsDocuments:
    """A split of a TFDS data set; see `Documents`. Empty documents are in it, and passed over later.

    Raises OSError where a file of records has vanished or lost its end since it was opened.
    """

    name: str
    records: Any
    field_name: str
    lengths: np.ndarray | None
    skipped: Mapping[str, int] = field(default_factory=dict)
    sliceable: bool = False

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> bytes:
        # Only the one field is decoded: TFDS would decode all, pictures too, and takes twice the time.
        from tensorflow_datasets.proto import tf_example_pb2

        try:
            record = self.records[i]
        except (
            RuntimeError
        ) as error:  # array_record's, which names the file; it opens them when they are needed
            raise OSError(f"{self.name}: document {i} cannot be read: {_first_line(error)}") from error
        if not record:  # what array_record gives for records beyond the end of a file
            raise OSError(f"{self.name}: document {i} cannot be read: its file is cut short")
        values = tf_example_pb2.Example.FromString(record).features.feature[self.field_name].bytes_list.value
        if len(values) != 1:
            raise ValueError(
                f"{self.name}: document {i} has {len(values)} values in {self.field_name!r}, not one"
            )
        return values[0]

    def read(self, i: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of document i, which is fetched whole. Raises IndexError outside it."""
        data = self[i]
        if not 0 <= start <= stop <= len(data):
            raise IndexError(
                f"{self.name}: bytes [{start}, {stop}) of document {i}, which has {len(data)} bytes"
            )
        return data[start:stop]


def _raw_bytes() -> Any:
    from tensorflow_datasets.core.decode import DeserializeMethod

    return DeserializeMethod.RAW_BYTES


def _stored_lengths(builder: Any, instructions: Any) -> np.ndarray | None:
    """The lengths of a split expression, from those of the whole splits; None if they are not stored."""
    place: dict[str, tuple[str, int]] = {}  # shard -> its split, and the split's documents before it
    for name, info in builder.info.splits.items():
        before = 0
        for shard, count in zip(info.filepaths, info.shard_lengths, strict=True):
            place[Path(shard).name] = (name, before)
            before += count
    parts = []
    for one in instructions:
        name, before = place.get(Path(one.filename).name, ("", 0))
        stored = Path(builder.data_path) / lengths_file(name)
        if not stored.exists():
            return None
        take = one.take if one.take >= 0 else one.examples_in_shard - one.skip
        parts.append(np.load(stored)[before + one.skip : before + one.skip + take])
    return np.concatenate(parts)


def _flatten(tree: Any, prefix: str = ""):
    """(path, leaf) pairs of nested features, paths joined by `/` as TFDS names them in its records."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
