"""Feeds: messages of another system's NATS server that become events of a bus."""
