"""What everything rests on: who sees whom in a packed row, and the path from data to noise."""
