"""Trials of a search: `search` runs it, `local` and `remote` train a trial, `worker` is the other side of `remote`, `decay_branch` ends it, `findings` reports."""
