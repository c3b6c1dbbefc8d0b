"""Benchmarks: Headrace beside its peers, and its parts alone."""
