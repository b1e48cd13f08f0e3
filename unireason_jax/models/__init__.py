"""The models: what a network is (`bagel`, `vae`), and how it is built and used (`functional`).

Flax describes the modules and stays in this room; everywhere else parameters are a nested dict of
arrays. `config` holds the sizes, `huggingface` the names of the released checkpoints.
"""
