"""Fault injection: real processes on a real server are killed, stopped, cut off and starved; the output is checked.

Run it with `python -m tests.chaos`; `--help` lists the choices.
"""
