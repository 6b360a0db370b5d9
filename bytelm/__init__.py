"""Language models over bytes: trained token-free, or converted exactly from tokenized models.

The names below are all of the public face. `load` and `generate` are also names of modules: as
attributes of the package they are the functions, because they are imported here.
"""

from bytelm.ensemble import Ensemble
from bytelm.generate import generate, stream
from bytelm.lm import ByteLM, Special, Text
from bytelm.load import load

__version__ = "0.1.0"

__all__ = ["ByteLM", "Ensemble", "Special", "Text", "__version__", "generate", "load", "stream"]
