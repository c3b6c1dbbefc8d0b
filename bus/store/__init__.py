"""What lies in JetStream: the streams as data, typed records in buckets, objects."""
