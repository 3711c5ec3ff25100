"""Rows of parts as OpenAI's answers: what a batch's output and error files hold."""
