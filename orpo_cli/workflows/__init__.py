"""Workflows: what each command does, from its arguments to its result, without parsing and printing.

`orpo train` is ``train`` (with --smoke ``smoke``), `plan` is ``plan`` and ``estimate``, `data` is ``data``, `eval` is ``evaluate``,
`generate` and `chat` have modules of their names, and so have `init` and `doctor`. Commands that are one call of a package have
no module here: `validate` is ``recipe.load``, `convert` is ``recipe.convert``, `merge` is ``merge.merge``, `export` is
``export.export`` and `push-to-hub` is ``hub.push``.
"""
