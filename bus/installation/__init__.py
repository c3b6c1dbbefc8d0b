"""What an installation stands on: the NATS server that comes along, keys, accounts and credentials, backups."""
