"""Completions as they are drawn: the decode loop cut into short runs of one compiled program.

How: one program reads the prompts, another draws tokens up to a number that it is given, and the loop's state
stays on the device in between (its buffers are donated, so that there is one cache). It is the loop of
`decode.py` with another limit, and so draws the tokens that the whole sampler draws with the same keys.

Why not a callback out of the one loop: it would put a host's answer into every token of the program that
training runs, and not every backend has them. Knows arrays and the model: no tokenizer and no terminal.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

import jax
import numpy as np

from vtzero.models.qwen2_vl.decoder import CompletionCache, PromptCache
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.parallel.program import Program
from vtzero.sampling.decode import Completions, DecodeSettings, Loop, advance, read
from vtzero.sampling.parameters import SamplingParameters

SECONDS_A_RUN = 0.05
"""So long one run of the loop should take: text then moves as a person reads, and a run's start costs little.

A run has one token at first, and at most twice as many as the one before.
"""


class StreamingSampler:
    """`Sampler`, with the completions so far after every few tokens. Compiled once for each shape it meets.

    `seconds` counts the time in which prompts were read and tokens drawn, and none in which a program was
    compiled. `on_compile` is called before one is.
    """

    def __init__(
        self,
        merge: Callable[..., Any],
        settings: DecodeSettings,
        on_compile: Callable[[], None] = lambda: None,
    ):
        self.settings = settings
        self.seconds = 0.0
        self._merge, self._on_compile = merge, on_compile
        self._read = Program(self._begun)
        self._advance = Program(self._advanced, donate_argnums=(5,))
        self._grow = jax.jit(CompletionCache.grown, static_argnums=1)

    def __call__(
        self,
        pieces: tuple[Any, ...],
        prompts: Prompts,
        keys: Any,
        parameters: SamplingParameters,
        max_new_tokens: int | None = None,
    ) -> Iterator[Completions]:
        """One completion for each of `keys` (batch, group); see `decode.sample_groups`.

        Each yield is the completions so far, as arrays of the host; the last one is what the sampler returns.
        A completion is whole when it is `terminated`, or the iterator has ended.
        """
        longest = self.settings.max_completion_length
        limit = longest if max_new_tokens is None else min(max_new_tokens, longest)
        loop, prompt_cache = self._timed(self._read, pieces, prompts, keys, parameters)
        count, step = 1, 0
        for length in self.settings.lengths:
            if step >= limit:
                return
            if loop.cache.length < length:
                loop = replace(loop, cache=self._grow(loop.cache, length))
            while step < min(limit, length):
                end, start = np.int32(min(step + count, limit, length)), self.seconds
                loop = self._timed(self._advance, pieces, prompts, keys, parameters, prompt_cache, loop, end)
                drawn, step = jax.device_get((loop.completions, loop.step))
                yield drawn
                if drawn.terminated.all():
                    return
                count = _next_count(count, self.seconds - start)

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""
        return self._read.compilations + self._advance.compilations

    def _timed(self, program: Program, *arguments: Any) -> Any:
        if not program.is_compiled_for(*arguments):
            self._on_compile()
            program.declare(*arguments)()
        start = perf_counter()
        result = jax.block_until_ready(program(*arguments))
        self.seconds += perf_counter() - start
        return result

    def _begun(
        self, pieces: tuple[Any, ...], prompts: Prompts, keys: Any, parameters: SamplingParameters
    ) -> tuple[Loop, PromptCache]:
        return read(self._merge(*pieces), prompts, keys, parameters, self.settings)

    def _advanced(
        self,
        pieces: tuple[Any, ...],
        prompts: Prompts,
        keys: Any,
        parameters: SamplingParameters,
        prompt_cache: PromptCache,
        loop: Loop,
        end: Any,
    ) -> Loop:
        model = self._merge(*pieces)
        return advance(model, prompts, prompt_cache, keys, parameters, self.settings, loop, end)


def _next_count(count: int, seconds: float) -> int:
    return max(1, min(2 * count, int(count * SECONDS_A_RUN / max(seconds, 1e-6))))
