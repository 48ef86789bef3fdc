"""Configurations of other tools as recipes: ``orpo convert``."""
