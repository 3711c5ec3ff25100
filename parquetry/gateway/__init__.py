"""OpenAI's files and batches over the queue: `parquetry gateway`."""
