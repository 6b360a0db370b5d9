"""A prompt and a text as a tree of nodes, cut down to what the laws after the prompt need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bytelm.exact.batches import special
from bytelm.exact.canonical.canonical import Canonical
from bytelm.exact.tree import ROOT, Tree
from bytelm.lm import Prompt, Special, Text, segments

_NO_TEXT = Text(b"")


@dataclass
class Row:
    """What comes before a text, and the nodes of the text and of the prompt's last segment.

    trunk: tokens that are in no doubt when the tree begins. offset: where the text starts in the tree's
    text. base: the last node that all nodes still wanted descend from; they are its descendants, `nodes`,
    in the tree's order, without `base`. dead: the row was given something impossible.
    """

    trunk: list[int]
    tree: Tree
    offset: int
    base: int
    nodes: list[int]
    dead: bool = False

    def path(self, node: int) -> list[int]:
        """The tokens of the context that the node is, `trunk` included."""
        return self.trunk + self.tree.path(node)

    def copy(self) -> Row:
        """An independent copy."""
        return replace(self, tree=self.tree.copy())


def row_of(canonical: Canonical, bos: int | None, prompt: Prompt, text: bytes) -> Row:
    """The row of a prompt and a text after it. ValueError for special tokens that the tokenizer lacks."""
    trunk = [] if bos is None else [bos]
    parts = segments(prompt)
    last = _NO_TEXT
    if parts and isinstance(parts[-1], Text):
        last, parts = parts[-1], parts[:-1]
    dead = False
    for part in parts:
        if isinstance(part, Special):
            trunk.append(special(canonical.vocabulary, part.name))
            continue
        # A special token follows: the text before it is closed, as its encoding.
        closed = Tree(canonical, part.dummy_prefix)
        closed.extend(part.data)
        node = closed.ending()
        dead = dead or node is None
        trunk += closed.path(node or ROOT)
    tree = Tree(canonical, last.dummy_prefix)
    tree.extend(last.data)
    live = [node for start in tree.open for node in tree.at[start]]
    offset, known = len(tree.text), len(tree.token)
    if not live:
        tree.extend(text)
        return Row(trunk, tree, offset, ROOT, [], dead=True)
    wanted = set(live)
    for node in sorted(live, reverse=True):
        while node and (node := tree.parent[node]) not in wanted:
            wanted.add(node)
    base = common(tree.parent, live)
    tree.extend(text)
    nodes = [node for node in sorted(wanted) if node > base]
    return Row(trunk, tree, offset, base, [*nodes, *range(known, len(tree.token))], dead)


def common(parent: list[int], nodes: list[int]) -> int:
    """The last node that is an ancestor of all of `nodes`, or one of them; parents come before children."""
    found = nodes[0]
    for node in nodes[1:]:
        while node != found:
            if node > found:
                node = parent[node]
            else:
                found = parent[found]
    return found
