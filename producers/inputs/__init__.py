"""What a job reads: files found, their schema, rows and identity."""
