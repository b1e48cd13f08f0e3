"""Formulas that everything rests on: visibility in a packed row, the flow, and policy gradients."""
