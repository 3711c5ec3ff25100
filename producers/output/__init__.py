"""The output folder a job is to write to, and what lies in it already."""
