"""The Python API: jobs as calls and as handles."""
