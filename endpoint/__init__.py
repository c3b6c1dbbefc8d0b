"""Where functions run: the manager of an endpoint, its pools, their agents, engines and workers.

This package imports nothing by itself: a worker process is of it, and must start light.
"""
