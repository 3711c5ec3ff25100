"""Frames in, frames out: a job over a pandas, polars, Arrow or Hugging Face table, or a list, that Python holds."""
