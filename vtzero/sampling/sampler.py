"""The compiled sampler: arrays in, completions out; compiled once for each shape of prompts it meets."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.sampling.decode import Completions, DecodeSettings, sample_groups
from vtzero.sampling.parameters import SamplingParameters


class Sampler:
    """Draws groups of completions from a model given as the pieces of `nnx.split`.

    `merge` turns the pieces back into the model (`functools.partial(nnx.merge, graphdef)`), inside the
    compiled program. Parameters are arguments, never captured, so that a trainer samples from its own state.
    """

    def __init__(self, merge: Callable[..., Any], settings: DecodeSettings):
        self.settings = settings
        self.compilations = 0
        self._run = jax.jit(partial(self._sample, merge))

    def __call__(
        self, pieces: tuple[Any, ...], prompts: Prompts, keys: Any, parameters: SamplingParameters
    ) -> Completions:
        """One completion for each of `keys` (batch, group); see `decode.sample_groups`."""
        return self._run(pieces, prompts, keys, parameters)

    def _sample(
        self,
        merge: Callable[..., Any],
        pieces: tuple[Any, ...],
        prompts: Prompts,
        keys: Any,
        parameters: SamplingParameters,
    ) -> Completions:
        self.compilations += 1  # runs only while tracing
        return sample_groups(merge(*pieces), prompts, keys, parameters, self.settings)
