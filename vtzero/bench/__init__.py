"""`vtzero bench`: this machine against its own limits, and one choice against another.

What a machine can do is measured first (`training.ceilings`), then the phases of a config's step at real
shapes on made-up weights, each beside the floor that its operations and bytes set
(`models.qwen2_vl.costs`). Compares one change at a time. Reads no weights and writes no file; trains nothing
that anybody keeps.
"""
