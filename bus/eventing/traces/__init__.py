"""Traces: the stored events, and for one of them everything that followed from it. Modules are imported directly."""
