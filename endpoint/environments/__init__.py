"""Environments of functions: packages that a function needs, installed once and kept for the next one."""
