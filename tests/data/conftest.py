"""What several tests of the data room need."""

from __future__ import annotations

import pytest

from bytelm.data.documents import Table, TableBuilder


@pytest.fixture(scope="session")
def table():
    """A function from a list of documents to an opened source in memory."""

    def build(documents: list[bytes]) -> Table:
        builder = TableBuilder()
        for document in documents:
            builder.add(document)
        return builder.build("test", "give some")

    return build


class Unmeasured:
    """Documents of unknown length, fetched whole; counts how often."""

    name, skipped, lengths, sliceable = "unmeasured", {}, None, False

    def __init__(self, documents: list[bytes]):
        self._documents = documents
        self.fetched = 0

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, i: int) -> bytes:
        self.fetched += 1
        return self._documents[i]

    def read(self, i: int, start: int, stop: int) -> bytes:
        return self[i][start:stop]


@pytest.fixture(scope="session")
def unmeasured():
    """The class of documents whose lengths are not known."""
    return Unmeasured


class Counted:
    """Documents in memory; `asked` are the bytes of each read."""

    name, skipped, sliceable = "counted", {}, True

    def __init__(self, source: Table):
        self._source, self.lengths, self.asked = source, source.lengths, []

    def __len__(self) -> int:
        return len(self._source)

    def read(self, i: int, start: int, stop: int) -> bytes:
        self.asked.append(stop - start)
        return self._source.read(i, start, stop)


@pytest.fixture(scope="session")
def counted():
    """The class of documents that count what is read of them."""
    return Counted
