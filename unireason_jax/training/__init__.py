"""What a run carries, minimises, saves and measures; `train` tells it in order."""
