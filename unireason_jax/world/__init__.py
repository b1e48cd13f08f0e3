"""The embedded world: scenes, tasks and an exact verifier (numpy only, island of the package)."""
