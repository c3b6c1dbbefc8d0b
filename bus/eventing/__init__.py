"""From an event to the last attempt of each delivery: events, subscriptions, the dispatcher."""
