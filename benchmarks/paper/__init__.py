"""Claims of the ORPO paper (arXiv 2403.07691), checked with a small model on a CPU: ``python -m benchmarks.paper --help``."""
