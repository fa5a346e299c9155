"""Building blocks against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vtzero.models.layers import FEW_ROWS, times_weight


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_a_product_is_the_same_for_few_rows_and_many(rows):
    random = np.random.default_rng(rows)
    x, weight, gradient = (
        random.normal(size=shape).astype(np.float32) for shape in ((rows, 1, 8), (6, 8), (rows, 1, 6))
    )
    y, backward = jax.vjp(jax.jit(lambda x, weight: times_weight(x, weight, jnp.float32)), x, weight)
    of_x, of_weight = backward(gradient)
    np.testing.assert_allclose(y, x @ weight.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_x, gradient @ weight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(of_weight, np.einsum("rio,rid->od", gradient, x), rtol=1e-5, atol=1e-5)
