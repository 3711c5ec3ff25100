"""How statuses, rows and plans look in a terminal."""
