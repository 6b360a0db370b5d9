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
