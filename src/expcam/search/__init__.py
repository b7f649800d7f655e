"""One engine: the smallest set of parts for which a decision holds under perturbation."""
