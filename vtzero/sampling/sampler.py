"""The compiled sampler: arrays in, completions out; compiled once for each shape of prompts it meets."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.program import Program
from vtzero.sampling.decode import Completions, DecodeSettings, sample_groups
from vtzero.sampling.parameters import SamplingParameters


class Sampler:
    """Draws groups of completions from a model given as the pieces of `nnx.split`.

    `merge` turns the pieces back into the model (`functools.partial(nnx.merge, graphdef)`), inside the
    compiled program. Parameters are arguments, never captured, so that a trainer samples from its own state.
    """

    def __init__(self, merge: Callable[..., Any], settings: DecodeSettings, **options: Any):
        """`options` go to `jax.jit`."""
        self.settings = settings
        self._merge = merge
        self._program = Program(self._sample, **options)

    def __call__(
        self,
        pieces: tuple[Any, ...],
        prompts: Prompts,
        keys: Any,
        parameters: SamplingParameters,
        max_new_tokens: int | None = None,
    ) -> Completions:
        """One completion for each of `keys` (batch, group); see `decode.sample_groups`.

        One program serves all numbers of `max_new_tokens`.
        """
        return self._program(pieces, prompts, keys, parameters, self._limit(max_new_tokens))

    def declare(
        self, pieces: tuple[Any, ...], prompts: Prompts, keys: Any, parameters: SamplingParameters
    ) -> Callable[[], Any]:
        """Prepare the program for arguments like these, before the first call; see `Program.declare`."""
        return self._program.declare(pieces, prompts, keys, parameters, self._limit(None))

    def _limit(self, max_new_tokens: int | None) -> np.int32:
        return np.int32(self.settings.max_completion_length if max_new_tokens is None else max_new_tokens)

    @property
    def compilations(self) -> int:
        """How many shapes it was compiled for."""
        return self._program.compilations

    def _sample(
        self, pieces: tuple[Any, ...], prompts: Prompts, keys: Any, parameters: SamplingParameters, limit: Any
    ) -> Completions:
        return sample_groups(self._merge(*pieces), prompts, keys, parameters, self.settings, limit)
