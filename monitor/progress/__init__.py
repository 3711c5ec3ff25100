"""How far a job is: phase, pace, and time left."""
