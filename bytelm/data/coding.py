"""How pieces of documents become symbols, where that is more than to read their bytes.

A *coding* turns a `Piece` into ``symbols [n + 1]``: the symbol before the first target, then the targets.
`ByteCoding` rearranges bytes for filling in the middle; `TokenCoding` reads tokens, and rearranges them.
Both are pure functions of the piece, so a place in the data stays three small numbers a lane.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from bytelm.data.documents import Documents
from bytelm.data.fim import Fim, cut_of, layout
from bytelm.data.pieces import Piece, hash64
from bytelm.data.tokens import Tokens
from bytelm.lm import END, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX

CACHE = 2**26  # ids kept of documents that were encoded: 256 MB

log = logging.getLogger(__name__)


class Coding(Protocol):
    """What a stream knows of a coding."""

    @property
    def dtype(self) -> type:
        """Of symbols."""

    @property
    def sizes_V(self) -> np.ndarray | None:
        """Bytes that a symbol stands for; None: symbols are those of bytes."""

    @property
    def end(self) -> int: ...

    @property
    def meaning(self) -> Mapping[str, int]:
        """What a saved place in the data depends on."""

    def symbols(self, piece: Piece) -> np.ndarray | None:
        """The symbol before the piece's first target, then its targets; None where it has no target."""

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Told which pieces are asked for next, so that it may prepare them together."""


def _fim_meaning(fim: Fim) -> dict[str, int]:
    return {"fim": hash64(round(fim.rate * 1e9), round(fim.spm * 1e9)) >> 16} if fim.rate else {}


class ByteCoding:
    """Bytes, rearranged. Pieces begin and end between characters: at the first place from their cut on."""

    dtype: type = np.uint16
    sizes_V = None
    end = END

    def __init__(self, fim: Fim):
        self._fim, self.meaning = fim, _fim_meaning(fim)

    def expect(self, pieces: Sequence[Piece]) -> None:
        pass

    def symbols(self, piece: Piece) -> np.ndarray | None:
        documents, i = piece.documents, piece.document
        if documents.lengths is None or not documents.sliceable:
            whole = documents[i]
            size, read = len(whole), lambda start, stop: whole[start:stop]
        else:
            size, read = documents.lengths.item(i), lambda start, stop: documents.read(i, start, stop)
        stop = size + 1 if piece.stop is None else piece.stop
        low, high = _between(read, piece.start, size), _between(read, min(stop, size), size)
        ends = stop > size
        if not size or (low == high and not ends):
            return None
        before = min(low, 1)
        data = read(low - before, high)
        first = data[0] if before else END
        data = data[before:]
        if (cut := cut_of(self._fim, piece, data)) is None:
            return _joined([[first], data, [END] if ends else []], np.uint16)
        sentinels = (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE)
        laid = [[sentinels[part]] if isinstance(part, int) else part for part in layout(data, cut)]
        return _joined([[END], *laid, [END]], np.uint16)


def _joined(parts: Sequence[Sequence[int] | np.ndarray], dtype: type) -> np.ndarray:
    """Parts that are bytes, numbers or arrays, end to end."""
    arrays = [np.frombuffer(p, np.uint8) if isinstance(p, bytes) else np.asarray(p, dtype) for p in parts]
    return np.concatenate([array.astype(dtype) for array in arrays])


def _between(read, cut: int, size: int) -> int:
    """The first place from `cut` on that is not inside a character; at most three bytes further."""
    if not 0 < cut < size:
        return cut
    window = read(cut, min(cut + 4, size))
    return next((cut + i for i, byte in enumerate(window) if byte & 0xC0 != 0x80), cut)


class TokenCoding:
    """Canonical tokens of whole documents; documents that are not UTF-8 have none and are left out.

    A piece holds the tokens that begin in its bytes; one that begins inside a character goes with those
    before it, so pieces begin and end between characters and every byte comes once an epoch. `left_out`
    counts the documents met that are not UTF-8, by the name of their source; the log tells as they come.
    """

    def __init__(self, tokens: Tokens, fim: Fim | None = None):
        """Raises ValueError where `fim` needs sentinels that the tokenizer lacks."""
        fim = Fim() if fim is None else fim
        if fim.rate and tokens.sentinels is None:
            raise ValueError(
                f"{tokens.path}: data.fim.rate is {fim.rate}, but the tokenizer has no special tokens "
                "<fim_prefix>, <fim_suffix> and <fim_middle>"
            )
        self.tokens, self._fim = tokens, fim
        self.dtype: type = np.uint16 if tokens.vocab_size <= 2**16 else np.int32
        self.sizes_V, self.end = tokens.sizes_V, tokens.end
        self.meaning = {"tokenizer": tokens.fingerprint, **_fim_meaning(fim)}
        self._left: dict[str, set[int]] = {}
        self._kept: OrderedDict[tuple[int, int], tuple[Documents, np.ndarray | None]] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    @property
    def left_out(self) -> dict[str, int]:
        return {name: len(documents) for name, documents in self._left.items()}

    def symbols(self, piece: Piece) -> np.ndarray | None:
        with self._lock:
            ids = self._ids([piece])[0]
        if ids is None or not len(ids):
            return None
        low, high, ends = 0, len(ids), True
        if piece.stop is not None:
            start_T = np.cumsum(self.sizes_V[ids], dtype=np.int64)  # where the token after each begins
            size = start_T.item(-1)
            low, high = (self._between(ids, start_T, cut) for cut in (piece.start, piece.stop))
            ends = piece.stop > size
        if low == high and not ends:
            return None
        own = ids[low:high]
        data = b"".join([self.tokens.data[t] for t in own]) if self._fim.rate else b""
        if (cut := cut_of(self._fim, piece, data)) is None:
            parts: list[Sequence[int] | np.ndarray]
            parts = [[ids[low - 1] if low else self.end], own, [self.end] if ends else []]
        else:
            assert self.tokens.sentinels is not None
            laid = layout(data, cut)
            texts = iter(self.tokens.encode([part for part in laid if isinstance(part, bytes)]))
            parts = [[self.end]]
            for part in laid:
                if isinstance(part, int):
                    parts.append([self.tokens.sentinels[part]])
                else:
                    encoded = next(texts)
                    assert encoded is not None  # cut between characters
                    parts.append(encoded)
            parts.append([self.end])
        return _joined(parts, self.dtype)

    def expect(self, pieces: Sequence[Piece]) -> None:
        with self._lock:
            self._ids(pieces)

    def held_out(self, documents: Documents, i: int, data: bytes) -> np.ndarray | None:
        """The ids of held-out document i, which reads `data`, or of its beginning; None if it has none."""
        ids = self.tokens.encode([data])[0]
        if ids is None:
            self._leave_out(documents, i)
        return ids

    def _between(self, ids: np.ndarray, start_T: np.ndarray, cut: int) -> int:
        """The number of tokens before a cut in the bytes."""
        place = int(start_T.searchsorted(cut)) + 1 if cut > 0 else 0
        while 0 < place < len(ids) and self.tokens.inside_V[ids[place]]:
            place += 1
        return min(place, len(ids))

    def _ids(self, pieces: Sequence[Piece]) -> list[np.ndarray | None]:
        """The ids of the pieces' documents, from the cache or all encoded at once."""
        keys = [(id(piece.documents), piece.document) for piece in pieces]
        missing = {k: p for k, p in zip(keys, pieces, strict=True) if k not in self._kept}
        texts = [piece.documents[piece.document] for piece in missing.values()]
        found = {}
        for (key, piece), ids in zip(missing.items(), self.tokens.encode(texts), strict=True):
            if ids is None:
                self._leave_out(piece.documents, piece.document)
            found[key] = ids
            self._kept[key] = (piece.documents, ids)  # held, so that no other takes over its `id`
            self._size += 0 if ids is None else len(ids)
        out = []
        for key in keys:
            out.append(found[key] if key in found else self._kept[key][1])
            self._kept.move_to_end(key)
        while self._size > CACHE and len(self._kept) > 1:
            _, (_, ids) = self._kept.popitem(last=False)
            self._size -= 0 if ids is None else len(ids)
        return out

    def _leave_out(self, documents: Documents, i: int) -> None:
        left = self._left.setdefault(documents.name, set())
        if i not in left:
            left.add(i)
            if len(left) in (1, 10, 100, 1000, 10_000):
                log.warning(
                    "%s: document %d is not UTF-8 and has no tokens: left out, as %d so far",
                    *(documents.name, i, len(left)),
                )
