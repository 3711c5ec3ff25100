"""A job as a notebook shows it."""
