"""vLLM as a back end: our engine interface over its own engine loop, in this process."""
