"""Engines on places that others keep: threads, a Dask cluster, blocks that Parsl gets from a batch system."""
