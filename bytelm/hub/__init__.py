"""Hugging Face folders as our models, and our models as Hugging Face folders."""

from bytelm.hub.reading import Folder, is_folder, read
from bytelm.hub.writing import save

__all__ = ["Folder", "is_folder", "read", "save"]
