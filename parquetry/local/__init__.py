"""A whole job on this machine: a broker of its own, a worker, and what came of it."""
