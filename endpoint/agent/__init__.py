"""The agent: the loop inside a pool that takes bundles, feeds the engine and stores results."""
