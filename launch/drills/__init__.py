"""Drills: every command is killed, doubled and stopped, and what it leaves is compared."""
