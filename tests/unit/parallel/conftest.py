"""The packed engine is torch: an environment without it collects nothing here."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py"]
