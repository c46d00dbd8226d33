"""What stands behind the server: queues, batching and engines."""
