"""A file system that fails as NFS does, served through FUSE to real processes: several mounts of one export."""
