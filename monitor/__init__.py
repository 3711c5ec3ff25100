"""Read-only view of jobs and workers: progress, Prometheus metrics, the web page."""
