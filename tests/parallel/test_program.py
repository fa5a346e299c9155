"""A program is compiled once for its shapes, before the first call if it was declared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.parallel.program import Program
from vtzero.training.compilation import COMPILATIONS, compile_all


def test_other_values_compile_nothing_and_other_shapes_do():
    program = Program(lambda x, scale: x * scale)
    np.testing.assert_array_equal(program(jnp.arange(3), 2), [0, 2, 4])
    np.testing.assert_array_equal(program(jnp.arange(3) + 1, 3), [3, 6, 9])
    assert program.compilations == 1
    program(jnp.arange(4), 2)
    program(jnp.arange(3.0), 2)
    assert program.compilations == 3


def test_a_declared_program_is_not_compiled_by_its_call():
    program = Program(lambda tree: jax.tree.map(jnp.tanh, tree))
    shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    told = []
    compile_all({"tanh": program.declare(shapes)}, lambda *args: told.append(args[:3]))
    assert told == [("tanh", 1, 1)]
    argument = {"a": jnp.ones((2, 3))}
    before = COMPILATIONS.count
    program(argument)
    assert (program.compilations, COMPILATIONS.count) == (1, before)


def test_an_argument_that_is_donated_is_gone():
    program = Program(lambda x: x + 1, donate_argnums=0)
    x = jnp.ones(8)
    program(x)
    assert x.is_deleted()


def test_compilations_are_counted_since_the_last_time_they_were_asked_for():
    COMPILATIONS.metrics()
    Program(lambda x: x * 5 - 1)(jnp.ones(7))
    counted = COMPILATIONS.metrics()
    assert counted["compile/count"] >= 1
    assert counted["compile/seconds"] > 0
    assert COMPILATIONS.metrics() == {"compile/count": 0.0, "compile/seconds": 0.0}


def test_an_error_in_a_program_is_raised_when_it_is_declared():
    with pytest.raises(TypeError):
        Program(lambda x: jnp.dot(x, "text")).declare(jnp.ones(2))
