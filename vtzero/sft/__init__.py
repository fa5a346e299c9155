"""Supervised fine-tuning on the same batch of groups: one prompt, one or several target texts."""
