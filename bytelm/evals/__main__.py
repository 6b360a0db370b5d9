"""`python -m bytelm.evals`: lm-evaluation-harness's own command line, which knows the model "bytelm" here."""

from lm_eval.__main__ import cli_evaluate

import bytelm.evals.harness  # noqa: F401  (registers the model)

cli_evaluate()
