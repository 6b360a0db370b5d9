"""The error of a tokenizer that cannot be converted exactly."""

from __future__ import annotations

import json


class Unsupported(ValueError):
    """A feature of a tokenizer that exact conversion refuses; the message names it and prints it.

    `part` is where it was found ("pre_tokenizer", "normalizer", ...), `feature` the thing itself, as
    the tokenizer file spells it, and `why` what is wrong with it.
    """

    def __init__(self, part: str, feature: object, why: str):
        shown = feature if isinstance(feature, str) else json.dumps(feature, ensure_ascii=False)
        if len(shown) > 400:
            shown = f"{shown[:400]}... ({len(shown)} characters)"
        super().__init__(f"tokenizer's {part}: {shown}: {why}")
        self.part, self.feature, self.why = part, feature, why
