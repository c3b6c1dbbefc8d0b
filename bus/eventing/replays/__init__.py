"""Replays: events of the past delivered once more, to one subscription or to a target of their own.

Modules are imported directly.
"""
