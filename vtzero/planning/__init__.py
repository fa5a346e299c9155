"""`vtzero plan`: the real programs of a config compiled for TPU slices that are not here.

The compiler says what each needs of a chip's memory and what the chips exchange; time is predicted from
operations and bytes against published limits. Makes no array and reads no weights.
"""
