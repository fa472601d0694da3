"""A map of one function over jobs, on local processes or on a Ray cluster."""
