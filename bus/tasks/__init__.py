"""Tasks: bundles and result parts, submitted and collected, cancelled, listed, and what they print."""
