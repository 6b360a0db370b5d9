"""The nodes of a text: all sequences in pre(D) whose bytes are a beginning of it.

There is about one node a byte, or a few where the tokenizer looks ahead; each is its parent, a node that
ends earlier, plus one token. Every cover of every beginning of the text is a node plus one token.
"""

from __future__ import annotations

from collections.abc import Iterable

from bytelm.exact.canonical.canonical import Canonical
from bytelm.exact.canonical.states import NOTHING

ROOT = 0


class Tree:
    """The nodes of a growing text, in the order in which they end; node 0, the root, is the empty sequence.

    token, parent, offset, state: of every node (NOTHING and -1 for the root); offsets count bytes of
    `text`. at: for each offset 0..len(text) the nodes that end there. open: the offsets whose nodes may
    still get children, because the text from there on begins a token.

    `dummy`: whether the tokenizer's dummy space, if it has one, comes first; it is then part of `text`,
    and `lead` is 1.
    """

    def __init__(self, canonical: Canonical, dummy: bool = True):
        self.canonical = canonical
        dummy = dummy and canonical.source.dummy
        start = canonical.start if dummy else canonical.plain_start
        self.token, self.parent, self.offset, self.state = [NOTHING], [-1], [0], [start]
        self.at: list[list[int]] = [[ROOT]]
        self.open = [0]
        self.text = bytearray()
        self.lead = int(dummy)
        if dummy:
            self.extend(b" ")

    def extend(self, data: Iterable[int]) -> None:
        """Adds bytes to the text, and the nodes that end at each of them."""
        canonical, prefixes, text = self.canonical, self.canonical.vocabulary.prefixes, self.text
        token, parent, offset, state = self.token, self.parent, self.offset, self.state
        for byte in data:
            text.append(byte)
            end = len(text)
            here: list[int] = []
            still: list[int] = []
            for start in self.open:
                spelled = prefixes.get(bytes(text[start:end]))
                if spelled is None:
                    continue
                still.append(start)
                for one in spelled:
                    for node in self.at[start]:
                        steps = canonical.steps(token[node], state[node])
                        after = steps.get(one)
                        if after is None:
                            after = canonical.step(token[node], state[node], one)
                        if after:
                            here.append(len(token))
                            token.append(one)
                            parent.append(node)
                            offset.append(end)
                            state.append(after)
            if here:
                still.append(end)
            self.at.append(here)
            self.open = still

    def path(self, node: int) -> list[int]:
        """The tokens of a node, from the first."""
        found = []
        while node:
            found.append(self.token[node])
            node = self.parent[node]
        return found[::-1]

    def ending(self) -> int | None:
        """The node that is the encoding of the text, None if the text has none."""
        if len(self.text) == self.lead:
            return ROOT
        ends = [node for node in self.at[-1] if self.canonical.ends(self.state[node])]
        # A text has one encoding.
        return ends[0] if ends else None

    def copy(self) -> Tree:
        """An independent copy."""
        twin = Tree.__new__(Tree)
        twin.canonical, twin.lead = self.canonical, self.lead
        twin.token, twin.parent = self.token.copy(), self.parent.copy()
        twin.offset, twin.state = self.offset.copy(), self.state.copy()
        twin.at = [nodes.copy() for nodes in self.at]
        twin.open, twin.text = self.open.copy(), bytearray(self.text)
        return twin
