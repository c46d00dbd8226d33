"""One file a format; each reads a decoded text into rows, strictly and exactly."""
