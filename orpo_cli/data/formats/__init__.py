"""The formats of preference data: recognised by looking at rows, and read into ``Pair``.

A conversation is never cut by characters: the prompt is everything before the last message, and both answers must follow the
same one. Where a row holds the prompt twice (in ``prompt`` and again at the start of the answers) it is trained once.
"""
