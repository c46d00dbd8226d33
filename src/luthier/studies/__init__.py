"""Defaults of hyperparameters, and the search for better ones: spaces, proposals, rungs, backends."""
