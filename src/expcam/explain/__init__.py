"""The mask: taps, objective, generators, solver, pruning, instances, baselines, metrics."""
