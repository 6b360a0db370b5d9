"""Tokenizers in all their forms, read into one, and the bytes of their tokens."""
