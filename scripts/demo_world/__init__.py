"""The demo's small world: data, a base model and evaluation suites that are true on two cores.

Nothing here is part of the ``ct_llm`` package. Read ``story.py`` first.
"""
