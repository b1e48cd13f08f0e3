"""What a config stands for before the first array: rooms and folders that all verbs share."""
