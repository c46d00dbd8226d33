"""The way of a run: asking, beginning, proving, planning, folds, judging, closing; and what they share."""
