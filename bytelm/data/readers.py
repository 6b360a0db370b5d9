"""Files that hold documents in a container: JSON lines, Parquet, gzip. Errors name file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


def kind_of(path: str | Path) -> str:
    """`jsonl`, `parquet`, `gzip` or `plain`, by the name's ending alone."""
    name = Path(path).name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return "jsonl"
    if name.endswith(".parquet"):
        return "parquet"
    return "gzip" if name.endswith(".gz") else "plain"


def read_gzip(path: str) -> bytes:
    """The decompressed file. Raises ValueError naming the file if it is damaged or cut short."""
    with _gzip_errors(path), gzip.open(path, "rb") as file:
        return file.read()


class Label(NamedTuple):
    """What a document is, and where that is said."""

    value: str | int
    file: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.line}"


def read_jsonl(path: str, field: str) -> Iterator[bytes]:
    """The text of `field` in every line, as UTF-8.

    JSON can spell half of a surrogate pair (`"\\ud800"`), which is no character. Such a half is kept, as
    the three bytes that UTF-8's scheme gives it (Python's `surrogatepass`): nothing is lost, but these
    bytes are not valid UTF-8. A blank line gives an empty document.

    Raises ValueError, with file and line number, for a line that is no JSON object, a missing field, a
    value that is no string, and a damaged gzip file.
    """
    for number, record in _records(path):
        yield b"" if record is None else _text(record, field, f"{path}, line {number}")


def read_labelled(path: str, field: str, label: str) -> Iterator[tuple[bytes, Label]]:
    """As `read_jsonl`, each text with its label, a string or an integer; blank lines are passed over."""
    for number, record in _records(path):
        if record is None:
            continue
        where = f"{path}, line {number}"
        text, value = _text(record, field, where), _get(record, label, where, "label")
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise ValueError(f"{where}: field {label!r} is a JSON {_kind(value)}, not a string or an integer")
        yield text, Label(value, path, number)


def _records(path: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The lines of a file, numbered from 1; None for a blank one."""
    opener: Any = gzip.open if path.lower().endswith(".gz") else open
    with _gzip_errors(path), opener(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                yield number, None
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:  # malformed JSON, or bytes that are no text
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}); fix or remove the line"
                ) from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, line {number}: a JSON {_kind(record)}, not an object")
            yield number, record


def _get(record: dict[str, Any], field: str, where: str, setting: str) -> Any:
    if field not in record:
        raise ValueError(f"{where}: no field {field!r}; the line has {_names(record)}; set `{setting}`")
    return record[field]


def _text(record: dict[str, Any], field: str, where: str) -> bytes:
    text = _get(record, field, where, "field")
    if not isinstance(text, str):
        raise ValueError(f"{where}: field {field!r} is a JSON {_kind(text)}, not a string")
    return text.encode("utf-8", "surrogatepass")


def read_parquet(path: str, field: str) -> Iterator[bytes]:
    """The values of the column `field`, of a string or binary type; binary values may be any bytes.

    Raises ValueError, naming the file, for a damaged file, a missing column, another type, and a null.
    """
    import pyarrow as pa  # heavy, and only Parquet needs it
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise ValueError(f"{path}: no column {field!r}; it has {_names(schema.names)}; set `field`")
            kind = schema.field(field).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
                raise ValueError(f"{path}: column {field!r} holds {kind}, not strings or bytes")
            row = 0
            for batch in file.iter_batches(columns=[field], batch_size=1024):
                for value in batch.column(0).cast(kind).to_pylist():
                    if value is None:
                        raise ValueError(f"{path}, row {row}: column {field!r} is null; drop such rows first")
                    yield value if isinstance(value, bytes) else value.encode()
                    row += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole Parquet file ({error})") from error


@contextmanager
def _gzip_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: the gzip file is damaged or cut short ({error}); fetch it again"
        ) from error


def _kind(value: object) -> str:
    """A JSON value's type in JSON's words."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _names(names: object) -> str:
    return ", ".join(repr(name) for name in list(names)) or "none"  # type: ignore[call-overload]
