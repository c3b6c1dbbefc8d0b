"""Flow control of subscriptions: order, limits, batches, pauses. Modules are imported directly."""
