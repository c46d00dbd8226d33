"""The loop, its watchers, its checkpoints and its devices."""
