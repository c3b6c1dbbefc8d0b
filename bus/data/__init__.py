"""Values as bytes: arguments, results and failures, in messages or beside them. No NATS in here."""
