"""The page: well formed, escaped, whole, readable."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from bytelm.evals import html
from bytelm.evals.html import BITS, DARK, LIGHT, page

VOID = {"meta"}


class Reader(HTMLParser):
    """Checks that tags nest, and collects the characters of the texts: (classes, title, shown)."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.spans: list[list[str]] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "i" and "title" in dict(attrs):
            self.spans.append([dict(attrs)["class"], dict(attrs)["title"], ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "i" and "section" in self.open:
            self.spans[-1][2] += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read(files, title="t"):
    text = page(files, title=title)
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return text, reader


def nats(*bits):
    return np.array(bits) * np.log(2)


def spans(text, *bits):
    bits = bits or (1.0,) * (len(text) + 1)
    return [tuple(span) for span in read([("f", text, nats(*bits))])[1].spans]


def test_a_character_has_the_sum_of_its_bytes():
    text = "a€".encode()
    assert spans(text, 0.05, 1, 2, 4.5, 9) == [
        ("c0", "0: 61: 0.05 bits", "a"),
        ("c7", "1: e2 82 ac: 7.50 bits = 1.00 + 2.00 + 4.50", "€"),
    ]


def test_classes_follow_the_scale():
    edges = [*BITS, 99.0]
    assert [s[0] for s in spans(b"x" * 10, *(e - 0.01 for e in edges), 0)] == [f"c{k}" for k in range(10)]
    assert [s[0] for s in spans(b"x" * 9, *(e + 0.01 for e in BITS), 0)] == [f"c{k}" for k in range(1, 10)]
    assert spans(b"x", np.inf, 0)[0][:2] == ("z", "0: 78: inf bits")


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        (b"<", "c3", "<"),
        (b"&", "c3", "&"),
        (b'"', "c3", '"'),
        (b"\n", "c3 nl", ""),
        (b"\t", "c3 tab", "\t"),
        (b"\r", "c3 x", "^M"),
        (b"\0", "c3 x", "^@"),
        (b"\x7f", "c3 x", "^?"),
        (b"\xff", "c3 x", r"\xff"),
        ("\u0085".encode(), "c4 x", "U+0085"),
        ("\u00a0".encode(), "c4 x", "U+00A0"),
        ("\u202e".encode(), "c5 x", "U+202E"),
        ("\u2028".encode(), "c5 x", "U+2028"),
        ("\u0301".encode(), "c4", "\u25cc\u0301"),
        ("\ue000".encode(), "c5 x", "U+E000"),
    ],
)
def test_what_cannot_be_seen_is_shown(text, kind, shown):
    assert [(s[0], s[2]) for s in spans(text)] == [(kind, shown)]


def test_a_broken_character_is_shown_byte_by_byte():
    assert [s[2] for s in spans(b"\xe2\x82x\xed\xa0\x80")] == [
        r"\xe2",
        r"\x82",
        "x",
        r"\xed",
        r"\xa0",
        r"\x80",
    ]


def test_every_byte_is_there_in_order():
    text = np.random.default_rng(0).bytes(3000) + "é€𝄞\n".encode() * 20
    titles = [s[1] for s in spans(text)]
    assert b"".join(bytes.fromhex(t.split(": ")[1]) for t in titles) == text
    assert [int(t.split(":")[0]) for t in titles][:1] == [0]


def test_nothing_of_the_user_is_markup_and_nothing_comes_from_the_network():
    evil = "<script>alert('x')</script> & \" </title>"
    text, reader = read([(evil, evil.encode(), np.ones(len(evil) + 1))], title=evil)
    assert reader.headings == [evil]
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "img", "iframe"}
    assert all(not key.startswith("on") for _, attrs in reader.tags for key in attrs)
    assert all(attrs["href"].startswith("#") for tag, attrs in reader.tags if tag == "a")
    assert not re.search(r"https?:|url\(|@import|@font-face", text)


def test_each_file_has_a_section_and_an_empty_one_no_figure():
    text, reader = read([("a.txt", b"ab", nats(1, 2, 7)), ("empty", b"", nats(5))])
    assert reader.headings == ["a.txt", "empty"]
    assert "1.5000 bits per byte over 2 bytes; the end of text took 7.00 bits more" in text
    assert "– bits per byte over 0 bytes" in text
    ids = [attrs["id"] for tag, attrs in reader.tags if tag == "section"]
    assert [attrs["href"] for tag, attrs in reader.tags if tag == "a"] == [f"#{i}" for i in ids]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"f: 2 bytes, but numbers of shape \(2,\)"):
        page([("f", b"ab", np.zeros(2))], title="")


def test_a_large_text_stays_small_and_in_blocks_a_line():
    text = (b"x" * 79 + b"\n") * 1250
    out = page([("f", text, np.ones(len(text) + 1))], title="")
    assert len(out) < 60 * len(text)
    assert 'style="' not in out
    assert out.count("<div>") == 1251


@pytest.mark.parametrize(("scale", "inks"), [(LIGHT, ("#000000", "#ffffff")), (DARK, ("#000000", "#ffffff"))])
def test_the_scale_is_told_by_lightness_and_text_on_it_is_readable(scale, inks):
    assert len(scale) == len(BITS) + 1
    from_page = [html._contrast(scale[0], colour) for colour in scale]
    assert all(b > 1.04 * a for a, b in pairwise(from_page))
    assert min(max(html._contrast(ink, colour) for ink in inks) for colour in scale) > 4.5  # WCAG AA
