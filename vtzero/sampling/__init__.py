"""From logits to tokens: filters and draws to use alone, and the batched decode loop over groups."""
