"""What is learned, as mathematics: one objective a file, each with the same parts in the same order; families open them."""
