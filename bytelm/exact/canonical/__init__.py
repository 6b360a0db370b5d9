"""pre(D): which token sequences are beginnings of encodings."""
