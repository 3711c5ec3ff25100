"""The commands, by what they are for. Each registers itself; heavy rooms are imported when a command runs."""
