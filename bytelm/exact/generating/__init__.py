"""Texts that grow: byte by byte, and token by token."""
