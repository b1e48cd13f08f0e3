"""Records, templates, packing and the input pipeline: NumPy only, never JAX."""
