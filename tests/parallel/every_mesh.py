"""Every mesh of three axes on 1, 2, 4 and 8 devices against one device. Run by `test_eight_devices.py`."""

from itertools import product

import jax
import numpy as np
import pytest
from parallel.eight_devices import ONE_DEVICE, distances, first_moments, outcome

SHAPES = [sizes for sizes in product((1, 2, 4, 8), repeat=3) if np.prod(sizes) in (1, 2, 4, 8)]


def test_these_are_all():
    assert len(SHAPES) == 1 + 3 + 6 + 10
    assert jax.device_count() == 8


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_loss_gradients_and_sampled_tokens_equal_one_device(sizes):
    actual, expected = outcome(sizes), outcome(ONE_DEVICE)
    np.testing.assert_array_equal(actual.tokens, expected.tokens)
    far = {
        name: abs(float(actual.metrics[name]) / float(value) - 1)
        for name, value in expected.metrics.items()
        if value
    }
    parts = {"gradient": first_moments, "parameter": lambda state: state.trainable}
    for kind, part in parts.items():
        found = distances(part(actual.state), part(expected.state))
        far |= {f"{kind} {name}": distance for name, distance in found.items()}
    worst = max(far, key=far.__getitem__)
    print(f"{sizes}: {far[worst]:.1e} of {worst}")
    assert far[worst] <= 1e-5
