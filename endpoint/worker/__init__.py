"""A worker process: runs one call after the other, and dies with its engine.

    python -m headrace.endpoint.worker SOCKET_FD COUNTERS_FD MOST_RESULT_BYTES KEEPS_OUTPUT LIMITS [SPOOL INLINE_BYTES]

Light: no NATS, no HTTP, no command line is loaded here.
"""
