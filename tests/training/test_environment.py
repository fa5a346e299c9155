"""What a run says it ran on."""

import json

import jax

from vtzero.training.environment import environment


def test_versions_and_devices_are_told():
    told = environment()
    assert told["jax"] == jax.__version__
    assert told["devices"] == len(jax.devices())
    assert told["processes"] == 1
    assert json.loads(json.dumps(told)) == told
