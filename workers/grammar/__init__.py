"""Grammars: what a row may write, as JSON schema, regex or a list of choices; compiled once, masked token by token."""
