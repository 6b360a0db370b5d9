"""Whole texts at once: what is asked of the nodes of their trees, and the passes that answer it."""
