"""Workflows: what each command does, from its arguments to its result, without parsing and printing.

`orpo train` is ``train`` (with --smoke ``smoke``), `plan` is ``plan`` and ``estimate``, and `data`, `generate`, `chat`, `init` and
`doctor` have modules of their names. Commands that mostly call one package have no module here: `validate` is ``recipe.load``,
`convert` is ``recipe.convert``, `eval` is ``evaluation.evaluate``, `merge` is ``merge.merge``, `export` is ``export.export`` and
`push-to-hub` is ``hub.push``.
"""
