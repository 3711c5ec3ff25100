"""What crosses a boundary: job spec, shards, permits, states, manifest, output columns, errors, settings, storage."""

__version__ = "0.1.0"
