"""Folders that `prepare` makes: records as bytes in ArrayRecord shards."""
