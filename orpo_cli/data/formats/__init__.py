"""Dataset formats: each is detected from the rows of a source, and read into ``Pair``.

A conversation is split between messages, never within one: the prompt is everything before the last message, and both
completions must follow the same prompt. Where a row stores the prompt twice (in ``prompt`` and again at the start of the
completions), it is trained once.
"""
