"""How each system samples, one file a family: the presets of `inference.systems.catalog`."""
