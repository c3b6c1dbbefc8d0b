"""Where tasks wait: the lanes of a pool, and the pools themselves."""
