"""A decoder that writes text: its own step with a cache of keys and values, compiled where it can be, for many texts at once."""
