"""Conversion of other tools' configurations to recipes: ``orpo convert``."""
