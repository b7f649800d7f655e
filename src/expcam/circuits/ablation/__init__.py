"""Classifiers with channels or edges replaced, and the test of a circuit by them."""
