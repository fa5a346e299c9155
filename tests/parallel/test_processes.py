"""How processes start and share out samples, as far as one process can tell; end_to_end has several."""

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.messages import tell_all
from vtzero.parallel.processes import RowShare, join_rows, on_host, row_share, start
from vtzero.parallel.sharding import even_rows

WHO = {"JAX_COORDINATOR_ADDRESS": "host:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_PROCESS_ID": "1"}, "JAX_PROCESS_ID set, but not JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"),
        (WHO | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2; it must be from 0 to 1"),
        (
            WHO | {"JAX_COORDINATOR_ADDRESS": "host"},
            "ADDRESS is 'host'; it must be HOST:PORT",
        ),
        (WHO | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; it must be a whole number"),
    ],
)
def test_a_process_that_does_not_know_its_job_says_what_to_set(environment, message):
    with pytest.raises(ValueError, match=message):
        start(environment)


def test_one_process_has_all_samples():
    mesh = make_mesh(MeshSettings())
    assert row_share(mesh) == RowShare()
    assert RowShare().rows(6) == [*range(6)]
    assert RowShare().gather("said") == tell_all("said") == ["said"]


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        (((0,), (1,), (2,)), [[0, 1], [2, 3], [4, 5]]),
        (((0, 2), (1, 5), (3, 4)), [[0, 2], [1, 5], [3, 4]]),
    ],
    ids=["in order", "mixed"],
)
def test_each_block_has_its_parts_of_a_batch(parts, rows):
    shares = [RowShare(block, parts) for block in range(len(parts))]
    own = [share.rows(6) for share in shares]
    assert own == rows
    assert all(share.gathered_rows(6) == [row for block in rows for row in block] for share in shares)


def test_own_samples_are_joined_and_brought_back():
    mesh = make_mesh(MeshSettings())
    own = {"ids": np.arange(6).reshape(2, 3), "positions": np.arange(12).reshape(3, 2, 2)}
    joined = join_rows(own, mesh, row_share(mesh))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(joined))
    jax.tree.map(np.testing.assert_array_equal, on_host(joined), own)


@pytest.mark.parametrize(("count", "rows"), [(1, 4), (4, 4), (5, 8)])
def test_a_number_of_samples_is_rounded_up_to_the_mesh(count, rows):
    assert even_rows(count, AbstractMesh((2, 2, 3), ("data", "fsdp", "tensor"))) == rows
