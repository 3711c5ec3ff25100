"""What a job left behind: rows beside their input, errors by reason, rates over time; all of it on one page."""
