"""Sampling: a key/value cache, text and image loops, and the reasoner that walks a template."""
