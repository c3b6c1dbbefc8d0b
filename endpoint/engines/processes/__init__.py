"""The engine of worker processes on this machine, which are reused, watched and replaced."""
