"""Continuous training for LLM adapters. The names of `__all__` are the public API."""

__version__ = "0.1.0"
