"""One of three processes of a job; each checks what it hears of the others. Run by `test_messages.py`."""

import jax
import pytest
from jax._src import distributed

from vtzero.parallel.messages import ask_first, tell_all, tell_first
from vtzero.parallel.processes import RowShare, start


def refuses() -> None:
    raise ValueError(f"process {jax.process_index()} refuses")


start()
me = jax.process_index()
long = "a long message " * 100_000
for number in range(5):
    assert tell_all((number, me)) == [(number, 0), (number, 1), (number, 2)]
assert [len(message) for message in tell_all(long * me)] == [0, len(long), 2 * len(long)]

# In the order of the tellers, which need not be all.
assert tell_first(f"of {me}", (2, 0)) == (None if me else ["of 2", "of 0"])
share = RowShare((2, 0, 1)[me], parts=((0, 3), (2, 5), (1, 4)), tellers=(1, 2, 0))
brought = share.bring([f"row {row}" for row in share.rows(6)])
assert brought == (None if me else [f"row {row}" for row in range(6)])

assert ask_first(lambda: f"asked in {me}") == "asked in 0"
with pytest.raises(ValueError, match="process 0 refuses"):
    ask_first(refuses)

tell_all(None)
if me == 0:
    left = distributed.global_state.client.key_value_dir_get_bytes("vtzero/")
    assert len(left) == 1, left  # of what all were told, the last may not be read yet
