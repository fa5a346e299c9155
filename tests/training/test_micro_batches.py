"""The number of micro-batches from what the compiler says a program needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.parallel.program import Program
from vtzero.training.micro_batches import bytes_needed, bytes_on_a_device, fewest_parts, possible_parts

ROWS, WIDTH = 64, 512


def summed_in(parts: int) -> Program:
    """Sums exp(x y^T) over parts of the rows: each part holds its share of the products."""

    def total(x, y):
        pieces = x.reshape(parts, ROWS // parts, WIDTH)
        return jax.lax.map(lambda piece: jnp.sort(piece @ y.T, axis=-1).sum(), pieces).sum()

    return Program(total)


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng()
    return jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32), jnp.ones((4096, WIDTH))


def test_more_parts_need_less_and_the_fewest_that_fit_are_chosen(arguments):
    needed = {parts: bytes_needed(summed_in(parts).declare(*arguments)()) for parts in (1, 2, 4, 8)}
    assert needed[1] > needed[2] > needed[4]
    for wanted in (1, 2, 4):
        memory = int(needed[wanted] / 0.9) + 10
        parts, program = fewest_parts(summed_in, (8, 1, 4, 2), arguments, memory=memory)
        assert parts == wanted
        np.testing.assert_allclose(program(*arguments), summed_in(1)(*arguments), rtol=1e-4)


def test_a_program_that_the_compiler_refuses_does_not_fit(arguments):
    def refused(parts: int) -> Program:
        program = summed_in(parts)
        if parts < 4:
            program.declare = lambda *_: raises(f"RESOURCE_EXHAUSTED: Ran out of memory with {parts}")
        return program

    assert fewest_parts(refused, (1, 2, 4, 8), arguments, memory=2**40)[0] == 4
    with pytest.raises(ValueError, match="needs more memory than a device has even one sample at a time"):
        fewest_parts(refused, (1, 2), arguments, memory=2**40)


def test_another_failure_of_the_compiler_is_not_hidden(arguments):
    def broken(parts: int) -> Program:
        program = summed_in(parts)
        program.declare = lambda *_: raises("INTERNAL: a bug")
        return program

    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        fewest_parts(broken, (1, 2), arguments, memory=2**40)


def raises(message: str):
    def compile_it():
        raise jax.errors.JaxRuntimeError(message)

    return compile_it


def test_what_must_stay_beside_it_counts(arguments):
    needed = bytes_needed(summed_in(1).declare(*arguments)())
    memory = int(needed / 0.9) + 10
    assert fewest_parts(summed_in, (1, 2), arguments, memory=memory, beside=1000)[0] == 2


def test_a_step_that_never_fits_is_an_error_that_says_what_it_needs(arguments):
    with pytest.raises(ValueError, match=r"even one sample at a time.*lower max_prompt_length"):
        fewest_parts(summed_in, (1, 2), arguments, memory=1000)


def test_every_device_has_a_share_of_each_part():
    assert possible_parts(8, 1) == [1, 2, 4, 8]
    assert possible_parts(8, 4) == [1, 2]
    assert possible_parts(6, 2) == [1, 3]


def test_bytes_on_a_device_are_those_of_its_arrays():
    assert bytes_on_a_device({"a": jnp.zeros((3, 4)), "b": None}) == 48


def test_bytes_on_a_device_of_a_divided_shape_are_those_of_a_part():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "fsdp"))
    lies = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
    assert bytes_on_a_device(jax.ShapeDtypeStruct((6, 4), jnp.bfloat16, sharding=lies)) == 3 * 4 * 2
