"""Outputs in parts: what the model thought, what it answered, and which tools it called."""
