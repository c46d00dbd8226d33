"""The proofs, one function each: a question → what was found."""
