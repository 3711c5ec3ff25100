"""Requests in OpenAI's form: what a line of a batch asks for, and what it is refused for."""
