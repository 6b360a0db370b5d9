"""`python -m bytelm.cli`, for where the `bytelm` script is not installed."""

import sys

from bytelm.cli import main

sys.exit(main())
