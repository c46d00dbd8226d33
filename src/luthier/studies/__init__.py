"""What many runs have taught: the values a run starts from."""
