"""Map one function over jobs, in local processes or on a Ray cluster."""
