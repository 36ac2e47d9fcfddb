"""Pages about kdjax; `docs.generate` writes those that are made from the code."""
