"""Where pre-tokenizers cut, and which texts normalisers leave alone, when a text is known only up to here."""
