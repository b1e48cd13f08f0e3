"""What `unireason bench` measures: packing, the loader, the training step."""
