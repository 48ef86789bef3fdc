"""orpo-cli: fine-tune language models on preference pairs with ORPO (arXiv 2403.07691)."""

__version__ = "0.2.0"
