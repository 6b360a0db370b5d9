"""The tokenizer of a run is made once, however many processes train."""

from __future__ import annotations

import pytest

from bytelm.config import Config, Data
from bytelm.data import Bpe, Files
from bytelm.data import tokenizer as tokenizers
from bytelm.models import TokenLMConfig
from bytelm.training import coding


@pytest.mark.parametrize("leads", [True, False])
def test_only_the_first_process_makes_the_tokenizer(tmp_path, monkeypatch, leads):
    (tmp_path / "a.txt").write_text("the more the merrier " * 20)
    source = Files(train=(str(tmp_path / "a.txt"),), valid=(str(tmp_path / "a.txt"),))
    config = Config(model=TokenLMConfig(context=16), data=Data(source, row=16, tokenizer=Bpe(size=270)))
    first, _ = coding.coding_of(config, tmp_path / "run")
    made = []
    train = tokenizers.train
    monkeypatch.setattr(tokenizers, "train", lambda *a, **k: made.append(1) or train(*a, **k))
    monkeypatch.setattr(coding, "leads", lambda: leads)
    again, _ = coding.coding_of(config, tmp_path / "run")
    assert again == first
    assert len(made) == leads  # begun anew by the first, found by the others


def test_a_copied_tokenizer_is_not_written_again(tmp_path, monkeypatch):
    """Another process may be reading it."""
    (tmp_path / "a.txt").write_text("the more the merrier " * 20)
    source = Files(train=(str(tmp_path / "a.txt"),), valid=(str(tmp_path / "a.txt"),))
    trained = Data(source, row=16, tokenizer=Bpe(size=270))
    coding.coding_of(Config(model=TokenLMConfig(context=16), data=trained), tmp_path / "given")
    copied = Data(source, row=16, tokenizer=Bpe(size=270, path=str(tmp_path / "given")))
    config, there = Config(model=TokenLMConfig(context=16), data=copied), tmp_path / "run" / "tokenizer.json"
    coding.coding_of(config, tmp_path / "run")
    before = there.stat().st_ino
    monkeypatch.setattr(coding, "leads", lambda: False)
    coding.coding_of(config, tmp_path / "run")
    assert there.stat().st_ino == before
    monkeypatch.setattr(coding, "leads", lambda: True)  # control: the first one writes
    coding.coding_of(config, tmp_path / "run")
    assert there.stat().st_ino != before
