"""Proof that the numbers are the official ones.

`unireason parity --goldens DIR` loads a folder that holds a small released checkpoint and
recordings of what the official PyTorch code computes with it, replays them through this package
(converter, split-packed batch, cache, sampler, optimizer) and compares tensor by tensor.
"""
