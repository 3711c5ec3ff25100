"""What a job is going to cost: prompts sampled, time and money predicted."""
