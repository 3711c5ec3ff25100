"""What `doctor` finds out about this machine, the broker and the storage."""
