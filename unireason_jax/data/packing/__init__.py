"""Which records share a row, found from their lengths before training."""
