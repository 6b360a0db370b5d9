"""UTF-8 as a machine from bytes to classes of characters.

A code is DEAD (no text goes on like this), a class 0..size-1 (a character is complete), or `size + n`
where n is a *partial*: what is known of an unfinished character. Partials that allow the same futures
are one, so there are few (hundreds), and unassigned or unspellable characters are told apart from the
others as soon as a byte decides it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bytelm.exact.cuts.characters import slots_of_plane

DEAD = -1


class Utf8:
    """The machine for a map from slots to classes, int `[SLOTS]`, -1 for characters of no text.

    `known` are the bytes that there are; characters that need others are in no text either.
    """

    def __init__(self, class_of_slot: np.ndarray, size: int, known: Collection[int]):
        self.size = size
        self._missing = [byte - 0x80 for byte in range(0x80, 0xC0) if byte not in known]
        self._rows: list[np.ndarray] = []  # for each partial its codes after bytes 0x80..0xBF
        self._number: dict[bytes, int] = {}
        self.reach: list[int] = []  # for each partial a bit set of the classes that may complete it
        blocks = [self._block_row(class_of_slot[slots_of_plane(p)]) for p in range(17)]
        by_block = np.concatenate(blocks)  # [17408]: a code for every 64 code points
        first = np.full(256, DEAD, np.int32)
        first[:128] = class_of_slot[:128]
        first[0xC2:0xE0] = by_block[2:32]
        for lead in range(0xE0, 0xF0):
            row = by_block[(lead - 0xE0) * 64 : (lead - 0xDF) * 64].copy()
            if lead == 0xE0:
                row[:32] = DEAD  # overlong
            first[lead] = self._partial(row)
        groups = np.array([self._partial(row) for row in by_block.reshape(-1, 64)], np.int32)  # 4096 each
        groups = np.append(groups, np.full(320 - len(groups), DEAD, np.int32))
        groups[:16] = DEAD  # overlong
        for lead in range(0xF0, 0xF5):
            first[lead] = self._partial(groups[(lead - 0xF0) * 64 : (lead - 0xEF) * 64])
        first[[byte for byte in range(256) if byte not in known]] = DEAD
        self.first = first.tolist()

    def _block_row(self, classes: np.ndarray) -> np.ndarray:
        return np.array([self._partial(row) for row in classes.reshape(-1, 64).astype(np.int32)], np.int32)

    def _partial(self, row: np.ndarray) -> int:
        row[self._missing] = DEAD
        key = row.tobytes()
        if key not in self._number:
            if (row == DEAD).all():
                self._number[key] = DEAD
            else:
                self._number[key] = self.size + len(self._rows)
                self._rows.append(row.copy())
                reach = 0
                for code in set(row.tolist()) - {DEAD}:
                    reach |= 1 << code if code < self.size else self.reach[code - self.size]
                self.reach.append(reach)
        return self._number[key]

    def after(self, code: int, byte: int) -> int:
        """The code after one more byte of a partial."""
        if not 0x80 <= byte < 0xC0:
            return DEAD
        return int(self._rows[code - self.size][byte - 0x80])

    def walk(self, code: int | None, data: bytes) -> int:
        """The code after the bytes of one character, from a partial or, with None, from its start.

        DEAD also where the character is complete before the bytes are used up.
        """
        for byte in data:
            if code is None:
                code = self.first[byte]
            elif code < self.size:
                return DEAD
            else:
                code = self.after(code, byte)
            if code == DEAD:
                return DEAD
        assert code is not None
        return code
