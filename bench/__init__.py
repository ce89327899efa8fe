"""Speed and memory of dusk beside its alternatives: `python -m bench`, one file a bench.

The runner itself imports nothing heavy: a child's peak memory is never told below its parent's.
"""
