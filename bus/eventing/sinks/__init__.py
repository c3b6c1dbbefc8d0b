"""Sinks: subscriptions whose events go to an address by HTTP. Modules are imported directly."""
