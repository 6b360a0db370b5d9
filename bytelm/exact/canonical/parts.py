"""The machines that decide pre(D), built from a tokenizer: merges, cuts, UTF-8 and the forms of tokens."""

from __future__ import annotations

import hashlib

import numpy as np

from bytelm.exact.canonical.forms import Forms, Table
from bytelm.exact.canonical.merges import Merges
from bytelm.exact.canonical.utf8 import Utf8
from bytelm.exact.cuts import characters
from bytelm.exact.cuts.patterns import Either, literal
from bytelm.exact.cuts.pretokenizers import byte_alphabet
from bytelm.exact.cuts.program import Alphabet
from bytelm.exact.cuts.splits import Cut, Splitter
from bytelm.exact.errors import Unsupported
from bytelm.exact.tokenizer.source import SPACE_MARK, Source, Unigram
from bytelm.exact.tokenizer.vocabulary import Vocabulary

_MOST_CLASSES = 2000
_LARGE = 8192  # pieces


class Parts:
    """What `Canonical` works with.

    usable: the rows of tokens that merges make and texts can hold, int64 `[U]`; form: their forms `[U]`
    (-1: they start with the end of a character). finishers: the rows that do, int64 `[C]`, as in
    `forms.leads`. added: ids of added tokens that are text. Raises `Unsupported`.
    """

    def __init__(self, source: Source):
        self.source, self.vocabulary = source, Vocabulary.of(source)
        self._read_model(source)
        self.added = sorted(token for group in source.added for token in group)
        self._check(source)
        self._read_characters(source)
        self._read_tokens(source)

    def _check(self, source: Source) -> None:
        if source.ignore_merges:
            lost = [t for t in self.vocabulary.order.tolist() if not self.is_made(t) and t not in self.added]
            if lost:
                shown = [self.vocabulary.data[t] for t in lost[:5]]
                why = f"{len(lost)} tokens are made by no merge, among them {shown}"
                raise Unsupported("model", "ignore_merges", why)
        for group in source.added:
            if source.dummy or (source.space == SPACE_MARK and any(SPACE_MARK in c for c in group.values())):
                raise Unsupported("added_tokens", list(group.values()), "text, beside a mark for spaces")

    def _read_model(self, source: Source) -> None:
        """Which tokens the model makes, and which characters or bytes it starts from."""
        if source.unigram is None:
            self.merges: Merges | None = _merges(source)
            self._made = self.merges.reachable
            self._base = set(np.flatnonzero(np.array(self.merges.rank) < 0).tolist())
            return
        self.merges = None
        self._made = np.zeros(len(source.pieces), bool)
        self._made[[*source.unigram.matched, *source.fallback.values()]] = True
        self._base = {t for t, text in source.unigram.matched.items() if len(text) == 1}

    def is_made(self, token: int) -> bool:
        """Whether the model makes the token from its own text."""
        return token < len(self._made) and bool(self._made[token])

    def _read_characters(self, source: Source) -> None:
        """The characters that texts may have, their classes, the cuts, and UTF-8."""
        data = self.vocabulary.data
        base = [t for t in self.vocabulary.order.tolist() if t in self._base and self.is_made(t)]
        alphabet = Alphabet()
        if source.byte_level:
            known = {data[t][0] for t in base}
            whole = bytewise = texts = _spelled(known)
        else:
            # A character that is a piece is never spelled by byte pieces.
            whole = np.zeros(characters.SLOTS, bool)
            spelling = set(source.fallback.values())
            whole[[characters.slot(ord(data[t].decode())) for t in base if t not in spelling]] = True
            if source.unigram is not None:
                self._check_characters(source.unigram, whole)
            known = set(source.fallback)
            bytewise = _spelled(known) & ~whole
            if source.space != " ":  # the mark itself comes back as a space
                whole[ord(source.space)] = bytewise[ord(source.space)] = False
            texts = whole | bytewise
            alphabet.add(whole)
        space_as = " " if source.byte_level else source.space
        cuts = [Cut(c.pattern, c.behaviour, c.inverted, c.atomic, space_as) for c in source.cuts]
        before, after = (
            [_added(group) for group in part]
            for part in (source.added[: source.raw], source.added[source.raw :])
        )
        self.splitter = Splitter([*before, *source.guards, *after, *cuts], alphabet)
        if not source.raw:
            for guard in source.guards:
                texts &= ~guard.dead
        alphabet.close(texts)
        if alphabet.size > _MOST_CLASSES:
            raise Unsupported("pre_tokenizer", source.pre_tokenizer, f"{alphabet.size} classes of characters")
        self._whole = np.where(whole, alphabet.of_slot, -1)
        self.utf8 = Utf8(np.where(bytewise, alphabet.of_slot, -1), alphabet.size, known)
        self.after = (
            Table(lambda s, c: self.splitter.after(s, c, cut=False), max(alphabet.size, 1)),
            Table(lambda s, c: self.splitter.after(s, c, cut=True), max(alphabet.size, 1)),
        )

    def _check_characters(self, unigram: Unigram, whole: np.ndarray) -> None:
        """Adds characters of longer pieces that are no pieces: they have a token in some places."""
        chars = sorted(
            {c for text in unigram.matched.values() for c in text if not whole[characters.slot(ord(c))]}
        )
        if chars and self.source.fallback:
            raise Unsupported(
                "model", f"Unigram with byte pieces, {chars[:8]}", "in pieces, but no pieces themselves"
            )
        whole[[characters.slot(ord(c)) for c in chars]] = True

    def class_of(self, code: int) -> int:
        """The class of a character that tokens hold whole, -1 where none does."""
        return int(self._whole[characters.slot(code)])

    def _read_tokens(self, source: Source) -> None:
        vocabulary = self.vocabulary
        no_bytes = set(source.special.values())
        rows: list[bytes | None] = [
            data if self.is_made(t) and t not in no_bytes else None
            for t, data in zip(vocabulary.order.tolist(), vocabulary.rows, strict=True)
        ]
        spelling = None
        if not source.byte_level:
            spelling = frozenset(vocabulary.row_of[list(source.fallback.values())].tolist())
        self.forms = Forms(rows, self.utf8, self.class_of, spelling)
        self.finishers = np.array([row for row, _, _ in self.forms.leads], np.int64)
        possible = self.forms.form >= 0
        possible[self.finishers] = True
        self.usable = np.flatnonzero(possible)
        self.form = self.forms.form[self.usable]
        if self.merges is not None:
            self.follow = self.merges.subset(vocabulary.order[self.usable])
            self.finish = self.merges.subset(vocabulary.order[self.finishers])


def _added(group: dict[int, str]) -> Cut:
    """The level of some added tokens: at one place the longest wins."""
    contents = sorted(group.values(), key=len, reverse=True)
    return Cut(Either(tuple(map(literal, contents))), atomic=True)


def _merges(source: Source) -> Merges:
    alphabet = set(byte_alphabet().values())
    spelling = set(source.fallback.values())
    base = [
        token
        for token, piece in enumerate(source.pieces)
        if token in spelling
        or (piece is not None and len(piece) == 1 and (not source.byte_level or piece in alphabet))
    ]
    length = [1 if t in spelling else len(p or "") for t, p in enumerate(source.pieces)]
    return Merges(len(source.pieces), base, source.merges, length, _key(source, base))


def _key(source: Source, base: list[int]) -> str | None:
    """A name for a large vocabulary and its merges; the small ones are not worth a file."""
    if len(source.pieces) < _LARGE:
        return None
    spelled = "\0".join("" if p is None else f"{p}\1" for p in source.pieces)
    digest = hashlib.sha256(spelled.encode("utf-8", "surrogatepass"))
    digest.update(np.array(base, np.int64).tobytes())
    # Merges that are not listed follow from the pieces.
    digest.update(
        np.array(source.merges, np.int64).tobytes() if isinstance(source.merges, list) else b"pieces"
    )
    return f"merges-1-{digest.hexdigest()}"


def _spelled(known: set[int]) -> np.ndarray:
    """The characters whose UTF-8 needs only these bytes. Booleans `[SLOTS]`."""
    found = characters.valid()
    if len(known) == 256:
        return found
    found[:] = False
    leads = np.array([byte in known for byte in range(256)])
    tails = leads[0x80:0xC0]
    found[:128] = leads[:128]
    pairs = leads[0xC0:0xE0, None] & tails  # by lead and last byte
    found[0x80:0x800] = pairs.reshape(-1)[0x80:]
    triples = leads[0xE0:0xF0, None, None] & tails[:, None] & tails
    found[0x800:0x10000] = triples.reshape(-1)[0x800:]
    # Beyond, a slot may stand for many characters: one that can be spelled is enough.
    quads = (leads[0xF0:0xF5, None, None, None] & tails[:, None, None] & tails[:, None] & tails).reshape(-1)
    for plane in range(1, 17):
        of_plane = quads[plane << 16 : (plane + 1) << 16]
        found[characters.slots_of_plane(plane)[of_plane]] = True
    return found & characters.valid()
