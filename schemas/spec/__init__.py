"""What a user asks for: the job spec, section by section, and the columns it gives."""
