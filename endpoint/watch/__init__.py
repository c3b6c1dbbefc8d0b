"""Files as a source of events: folders are watched, and a file that is complete becomes an event."""
