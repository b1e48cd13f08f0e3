"""Evaluations: a judge, rates with intervals, and a report with pictures."""
