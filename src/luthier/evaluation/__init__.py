"""How good a model is, against whom, and how sure one can be."""
