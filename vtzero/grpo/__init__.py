"""GRPO as pure functions of arrays: advantages, objectives and log-probabilities of a batch of groups.

Knows no files, no tokenizer, no model and no configuration of a run.
"""
