"""The stages of a run: options, begin, prove, plan_training, cross_validation, evaluate, finish; `context` is what they share."""
