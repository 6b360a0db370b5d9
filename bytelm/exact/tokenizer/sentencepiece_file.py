"""A SentencePiece `.model`: the few fields of the protocol buffer that matter (sentencepiece_model.proto)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2


@dataclass
class Model:
    """What a `.model` says: pieces (text, score, type), and how text is prepared."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    kind: int = UNIGRAM
    byte_fallback: bool = False
    suffix: bool = False
    rules: bytes = b""
    rules_name: str = ""
    dummy: bool = True
    collapse: bool = True
    escape: bool = True
    denormalises: bool = False


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number and value. Raises ValueError where the message is not whole."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(data) or shift > 63:
                raise ValueError(
                    f"{where} ends inside a number, at byte {at}: it is cut off or no SentencePiece model"
                )
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        tag = varint()
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            yield number, varint()
            continue
        size = {1: 8, 5: 4}.get(wire, -1) if wire != 2 else varint()
        if size < 0 or not number:
            raise ValueError(
                f"{where} has a field of an unknown kind before byte {at}: it is no SentencePiece model"
            )
        if at + size > len(data):
            raise ValueError(
                f"{where} ends {at + size - len(data)} bytes early, at byte {len(data)}: it is cut off"
            )
        yield number, data[at : at + size]
        at += size


def load(path: Path) -> Model:
    """The model in a file. Raises ValueError for one that is cut off or something else, FileNotFoundError."""
    name, model = path.name, Model()
    for number, value in _fields(path.read_bytes(), name):
        if number not in (1, 2, 3, 5):
            continue
        if not isinstance(value, bytes):
            raise ValueError(f"{name}: field {number} is a number: it is no SentencePiece model")
        inside = dict(_fields(value, name))
        if number == 1:
            text, score = inside.get(1, b""), inside.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4:
                raise ValueError(
                    f"{name}: piece {len(model.pieces)} is malformed: it is no SentencePiece model"
                )
            kind = inside.get(3, NORMAL)
            assert isinstance(kind, int)
            model.pieces.append((text.decode(), struct.unpack("<f", score)[0], kind))
        elif number == 2:
            model.kind = int(inside.get(3, UNIGRAM))
            model.suffix = bool(inside.get(24, 0))
            model.byte_fallback = bool(inside.get(35, 0))
        elif number == 3:
            rules, rules_name = inside.get(2, b""), inside.get(1, b"")
            assert isinstance(rules, bytes)
            assert isinstance(rules_name, bytes)
            model.rules, model.rules_name = rules, rules_name.decode()
            model.dummy, model.collapse = bool(inside.get(3, 1)), bool(inside.get(4, 1))
            model.escape = bool(inside.get(5, 1))
        else:
            model.denormalises = bool(inside.get(2, b""))
    if not model.pieces:
        raise ValueError(f"{name} has no pieces: it is empty, cut off or no SentencePiece model")
    return model
