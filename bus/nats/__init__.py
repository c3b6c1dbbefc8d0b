"""One connection to NATS, from the socket up: what comes and goes over it, kept up while servers come and go."""
