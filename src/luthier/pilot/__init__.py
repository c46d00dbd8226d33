"""The verbs, a file each. `complete` takes a run through its `stages`, in their order; what a search adds lies in `trials`."""
