"""Words and pictures as Janus-Pro reads them."""
