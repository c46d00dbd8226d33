"""Names to local weights, and weights to modules that the loop can train."""
