"""Reinforcement of text and flow: formulas only; nothing here knows a model or a file."""
