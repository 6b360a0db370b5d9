"""The nodes of a text."""

from __future__ import annotations

import oracle
import pytest
import tokenizer_zoo

from bytelm.exact.canonical.canonical import follow
from bytelm.exact.tree import Tree

TEXTS = [t for t in oracle.ADVERSARIAL if "<" not in t] + [tokenizer_zoo.TEXT[:300]]


@pytest.mark.parametrize("name", tokenizer_zoo.SMALL)
def test_nodes_are_the_sequences_in_pre_d_that_spell_the_text(small, name):
    canonical = small(name)
    for text in TEXTS:
        data = text.encode()
        tree = Tree(canonical)
        tree.extend(data)
        lead = b" " if canonical.source.dummy else b""
        assert bytes(tree.text) == lead + data
        for node in range(len(tree.token)):
            path = tree.path(node)
            assert b"".join(canonical.vocabulary.data[t] for t in path) == tree.text[: tree.offset[node]]
            assert follow(canonical, path) == tree.state[node]
        assert [n for nodes in tree.at for n in nodes] == list(range(len(tree.token)))


@pytest.mark.parametrize("name", tokenizer_zoo.SMALL)
def test_the_last_node_is_the_encoding(small, name):
    canonical = small(name)
    for text in TEXTS:
        tokens = canonical.source.encode(text)
        tree = Tree(canonical)
        tree.extend(text.encode())
        data = b"".join(canonical.vocabulary.data[t] for t in tokens)
        node = tree.ending()
        if data == (b" " if canonical.source.dummy and text else b"") + text.encode():
            assert node is not None
            assert tree.path(node) == tokens
            assert sum(canonical.ends(tree.state[n]) for n in tree.at[-1]) <= 1
        else:
            assert node is None


@pytest.mark.parametrize("name", ["gpt2", "llama3", "sp-fallback", "right-digits"])
def test_about_one_node_a_byte(small, name):
    tree = Tree(small(name))
    tree.extend(tokenizer_zoo.TEXT.encode())
    most = max(len(nodes) for nodes in tree.at)
    print(f"{name}: {len(tree.token) / len(tree.text):.3f} nodes a byte, at most {most} at one place")
    assert len(tree.token) < 1.2 * len(tree.text)
    assert most <= 3


def test_byte_by_byte_and_copies(small):
    whole, one, twin = Tree(small("gpt2")), Tree(small("gpt2")), None
    data = tokenizer_zoo.TEXT[:200].encode()
    whole.extend(data)
    for i, byte in enumerate(data):
        one.extend([byte])
        if i == 100:
            twin = one.copy()
    assert (one.token, one.parent, one.state, one.at) == (whole.token, whole.parent, whole.state, whole.at)
    assert len(twin.text) == 101
    twin.extend(b"zz")
    assert bytes(one.text) == data


def test_an_impossible_byte_ends_the_text(small):
    tree = Tree(small("gpt2"))
    tree.extend(b"a\xff")
    assert tree.at[-1] == []
    tree.extend(b"a")
    assert tree.at[-1] == []
    assert tree.open == []
    assert tree.ending() is None
