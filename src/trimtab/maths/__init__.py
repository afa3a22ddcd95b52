"""The arithmetic of a promise: pure functions on numbers, so that each can be checked against a paper.

Nothing here knows a model, a task or a file. Every formula names its source, and the tests hold it to a
published value or to a second route to the same answer.
"""
