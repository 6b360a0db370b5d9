"""All tokenisations: the byte model of `support="all"`, with certified bounds."""
