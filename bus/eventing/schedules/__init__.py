"""Schedules: timers that publish events. Modules are imported directly."""
