"""What is known of a job while it runs: states, status, history and prediction."""
