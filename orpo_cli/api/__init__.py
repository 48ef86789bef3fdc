"""Python interface: what the commands do, as functions that return objects, print nothing and raise ``OrpoError``.

The package ``orpo_cli`` offers these names: ``from orpo_cli import Recipe, plan, train, evaluate, generate, merge, export, push``.
"""
