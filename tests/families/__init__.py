"""Every family of the installed transformers, tiny and random: how it is served, and whether its answers are right."""
