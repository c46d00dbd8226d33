"""The proofs, one function each: proof inputs in, a `Proof` out."""
