"""The batched decode loop: prompts in, a group of completions for each out, in one compiled program.

The prompt is read once and its cache shared by the group. The completions' cache grows as they do. Knows
arrays and the model: no tokenizer, no files, no config of runs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vtzero.models.qwen2_vl.decoder import CompletionCache, DecoderLayer, PromptCache
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL, last_hidden
from vtzero.parallel.sharding import gathered
from vtzero.sampling.filters import ban_ids, draw, filter_logits, log_probability
from vtzero.sampling.parameters import SamplingParameters

_LAYERS_IN_ALL = 310
"""Of all loops of a program."""

LogProbabilities = Literal["none", "policy", "all"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Completions:
    """What was drawn, right-padded with `pad_id`; every completion starts at slot 0.

    `lengths` counts tokens, the stop token included; `terminated` says that there was one. Up to three
    log-probabilities of each drawn token (`DecodeSettings.logps` says which), 0 in the padding:
    - `drawn_logps` under the distribution it was drawn from, after every filter;
    - `policy_logps` under softmax(logits / temperature) without the banned ids: what a trainer computes
      (temperature 1 where decoding is greedy);
    - `model_logps` under the raw model, softmax(logits).
    """

    ids: Int[Array, "batch group length"]
    lengths: Int[Array, "batch group"]
    terminated: Bool[Array, "batch group"]
    drawn_logps: Float[Array, "batch group length"] | None = None
    policy_logps: Float[Array, "batch group length"] | None = None
    model_logps: Float[Array, "batch group length"] | None = None


@dataclass(frozen=True)
class DecodeSettings:
    """What fixes the compiled loop: the buffer's length, the ids that end a completion, the padding.

    `logps`: which log-probabilities are recorded: all three, the policy's, or none. Each costs a pass over
    the vocabulary for every token. `cache_lengths`: the lengths that the completions' cache has in turn; None
    stands for `growing_lengths(max_completion_length)`, one length for a cache that never grows.
    `gather_weights`: of weights divided over the mesh's `fsdp`, each device makes a whole copy before the
    loop; else it receives the others' parts again for every token (TRL's `ds3_gather_for_generation`).
    """

    max_completion_length: int
    stop_ids: tuple[int, ...]
    pad_id: int
    logps: LogProbabilities = "all"
    cache_lengths: tuple[int, ...] | None = None
    gather_weights: bool = True

    def __post_init__(self) -> None:
        if self.max_completion_length < 1:
            raise ValueError(f"max_completion_length is {self.max_completion_length}; it must be at least 1")
        if not self.stop_ids:
            raise ValueError("stop_ids is empty; a completion could never end")
        if self.logps not in get_args(LogProbabilities):
            raise ValueError(f"logps is {self.logps!r}; it must be one of {get_args(LogProbabilities)}")
        lengths = self.lengths
        if list(lengths) != sorted(set(lengths)) or lengths[-1] != self.max_completion_length:
            raise ValueError(
                f"cache_lengths are {lengths}; they must rise to max_completion_length, "
                f"{self.max_completion_length}"
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of the completions' cache, in order."""
        return self.cache_lengths or growing_lengths(self.max_completion_length)


def growing_lengths(longest: int, layers: int = 1) -> tuple[int, ...]:
    """32, 64, 128, 192, 256, 320, 384, 448, 512, 640, 768, 896, 1024, … and `longest`.

    From 128 on a token reads at most half as many slots again as are in use, from 256 on a quarter. Each
    length is a loop of its own in the program, with all `layers` written out: on a CPU one of 4 takes 0.35 s
    to compile. Of deep models some lengths are left out: 80 layers in 3 loops took the compiler of TPUs
    194 s, and in 10 it had not ended after ten minutes, short of memory on a machine of 24 GiB.
    """
    lengths = list(takewhile(lambda slots: slots < longest, _slots()))
    if lengths and lengths[-1] < 128 and lengths[-1] * 1.25 > longest:
        lengths.pop()
    count = min(len(lengths), max(_LAYERS_IN_ALL // layers - 1, 2))
    evenly = [lengths[(number + 1) * len(lengths) // (count + 1)] for number in range(count)]
    return (*evenly, longest)


def _slots() -> Iterator[int]:
    """Powers of two; from 128 on what lies half way between, from 256 on the quarters too."""
    yield from (32, 64, 128, 192)
    power = 256
    while True:
        yield from (power, power * 5 // 4, power * 3 // 2, power * 7 // 4)
        power *= 2


@dataclass(frozen=True)
class _Weights:
    """What every token reads, made ready once before the loop."""

    layers: list[DecoderLayer] | None
    head: Float[Array, "vocab width"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Loop:
    """The loop's state; `hidden` is what the next token is drawn from."""

    step: Int[Array, ""]
    hidden: Float[Array, "batch group width"]
    cache: CompletionCache
    done: Bool[Array, "batch group"]
    seen: Bool[Array, "batch group vocab"] | None
    completions: Completions


def sample_groups(
    model: Qwen2VL,
    prompts: Prompts,
    keys: Any,
    parameters: SamplingParameters,
    settings: DecodeSettings,
    max_new_tokens: Int[Array, ""] | int | None = None,
) -> Completions:
    """Draw one completion for each key: `keys` is a key array of shape (batch, group).

    Token t of a completion is drawn with fold_in(its key, t), so that it depends on nothing else in the
    batch. The loop ends as soon as every completion has drawn a stop id, or after `max_new_tokens` (at most
    the settings' length; a traced number, so that changing it compiles nothing anew).

    The cache has the first of the settings' lengths until it is full, then the next: what a token reads grows
    with what has been written.
    """
    limit = settings.max_completion_length if max_new_tokens is None else max_new_tokens
    loop, draw_token = begin(model, prompts, keys, parameters, settings)
    for length in settings.lengths:
        loop = replace(loop, cache=loop.cache.grown(length))
        loop = jax.lax.while_loop(partial(_goes_on, jnp.minimum(limit, length)), draw_token, loop)
    return loop.completions


def begin(
    model: Qwen2VL, prompts: Prompts, keys: Any, parameters: SamplingParameters, settings: DecodeSettings
) -> tuple[Loop, Callable[[Loop], Loop]]:
    """The loop's state before the first token, with the prompts read, and what draws a token."""
    hidden, prompt_cache = model.read_prompts(prompts)
    first = _first(hidden, prompts, keys)
    draw_token = _token_drawer(model, prompts, prompt_cache, keys, parameters, settings)
    return _start(model, prompts, first, parameters, settings), draw_token


def read(
    model: Qwen2VL, prompts: Prompts, keys: Any, parameters: SamplingParameters, settings: DecodeSettings
) -> tuple[Loop, PromptCache]:
    """The loop's state before the first token, and the prompts' cache, for `advance`."""
    hidden, prompt_cache = model.read_prompts(prompts)
    return _start(model, prompts, _first(hidden, prompts, keys), parameters, settings), prompt_cache


def advance(
    model: Qwen2VL,
    prompts: Prompts,
    prompt_cache: PromptCache,
    keys: Any,
    parameters: SamplingParameters,
    settings: DecodeSettings,
    loop: Loop,
    end: Int[Array, ""] | int,
) -> Loop:
    """Go on until `end` tokens of every completion are drawn, or all have ended; the cache must hold them."""
    draw_token = _token_drawer(model, prompts, prompt_cache, keys, parameters, settings)
    return jax.lax.while_loop(partial(_goes_on, jnp.int32(end)), draw_token, loop)


def _first(hidden: Float[Array, "batch prompt width"], prompts: Prompts, keys: Any) -> Array:
    return jnp.broadcast_to(last_hidden(hidden, prompts)[:, None], (*keys.shape, hidden.shape[-1]))


def _token_drawer(
    model: Qwen2VL,
    prompts: Prompts,
    prompt_cache: PromptCache,
    keys: Any,
    parameters: SamplingParameters,
    settings: DecodeSettings,
) -> Callable[[Loop], Loop]:
    weights = _weights(model, prompt_cache.keys[0].dtype, settings.gather_weights)

    def draw_token(loop: Loop) -> Loop:
        return _step(model, weights, prompts, prompt_cache, keys, parameters, settings, loop)

    return draw_token


def _weights(model: Qwen2VL, dtype: jnp.dtype, gather: bool) -> _Weights:
    layers, head = model.model.unstacked(dtype, gather=gather), model.head.astype(dtype)
    return _Weights(layers, gathered(head, at="lm_head/weight") if gather else head)


def _goes_on(end: Int[Array, ""], loop: Loop) -> Bool[Array, ""]:
    return (loop.step < end) & ~jnp.all(loop.done)


def _start(
    model: Qwen2VL,
    prompts: Prompts,
    hidden: Float[Array, "batch group width"],
    parameters: SamplingParameters,
    settings: DecodeSettings,
) -> Loop:
    batch, group = hidden.shape[:2]
    length = settings.max_completion_length
    zeros = jnp.zeros((batch, group, length), jnp.float32)
    logps = dict.fromkeys(_recorded(settings), zeros)
    ids = jnp.full((batch, group, length), settings.pad_id, jnp.int32)
    nobody = jnp.zeros((batch, group), bool)
    return Loop(
        step=jnp.int32(0),
        hidden=hidden,
        cache=model.model.empty_cache(batch, group, settings.lengths[0], hidden.dtype),
        done=nobody,
        seen=None if parameters.repetition_penalty is None else _seen_in_prompts(model, prompts, group),
        completions=Completions(ids, jnp.zeros((batch, group), jnp.int32), nobody, **logps),
    )


def _recorded(settings: DecodeSettings) -> tuple[str, ...]:
    recorded = {"none": (), "policy": ("policy_logps",)}
    return recorded.get(settings.logps, ("drawn_logps", "policy_logps", "model_logps"))


def _seen_in_prompts(model: Qwen2VL, prompts: Prompts, group: int) -> Bool[Array, "batch group vocab"]:
    """The repetition penalty counts the prompt's tokens as seen, as transformers' does."""
    batch = prompts.ids.shape[0]
    rows = jnp.arange(batch)[:, None]
    seen = jnp.zeros((batch, model.config.text.vocab_size), bool).at[rows, prompts.ids].max(prompts.mask)
    return jnp.broadcast_to(seen[:, None], (batch, group, seen.shape[-1]))


def _step(
    model: Qwen2VL,
    weights: _Weights,
    prompts: Prompts,
    prompt_cache: PromptCache,
    keys: Any,
    parameters: SamplingParameters,
    settings: DecodeSettings,
    loop: Loop,
) -> Loop:
    logits = model.logits(loop.hidden, weights.head)
    filtered = filter_logits(logits, parameters, loop.seen)
    step_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, loop.step)))(keys)
    tokens = draw(filtered, step_keys, parameters.temperature)
    tokens = jnp.where(loop.done, settings.pad_id, tokens)
    completions = _record(loop, tokens, logits, filtered, parameters, settings)
    hidden, cache = model.decode_step(
        tokens, prompts.start[:, None] + loop.step, loop.step, prompt_cache, loop.cache, weights.layers
    )
    return Loop(
        step=loop.step + 1,
        hidden=hidden,
        cache=cache,
        done=completions.terminated,
        seen=None if loop.seen is None else loop.seen | jax.nn.one_hot(tokens, logits.shape[-1], dtype=bool),
        completions=completions,
    )


def _record(
    loop: Loop,
    tokens: Int[Array, "batch group"],
    logits: Float[Array, "batch group vocab"],
    filtered: Float[Array, "batch group vocab"],
    parameters: SamplingParameters,
    settings: DecodeSettings,
) -> Completions:
    """Write the tokens and their log-probabilities into this step's slot."""
    drawn = loop.completions
    recorded = _recorded(settings)

    def put(name: str, logits: Array) -> Array:
        kept = jnp.where(loop.done, 0.0, log_probability(logits, tokens))[..., None]
        return jax.lax.dynamic_update_slice_in_dim(getattr(drawn, name), kept, loop.step, axis=2)

    distributions = {
        "drawn_logps": filtered,
        "policy_logps": _policy(logits, parameters),
        "model_logps": logits,
    }
    stopped = jnp.isin(tokens, jnp.asarray(settings.stop_ids)) & ~loop.done
    return Completions(
        ids=jax.lax.dynamic_update_slice_in_dim(drawn.ids, tokens[..., None], loop.step, axis=2),
        lengths=drawn.lengths + ~loop.done,
        terminated=loop.done | stopped,
        **{name: put(name, distributions[name]) for name in recorded},
    )


def _policy(
    logits: Float[Array, "*rows vocab"], parameters: SamplingParameters
) -> Float[Array, "*rows vocab"]:
    """The logits that a trainer scores with: tempered, the banned ids left out, no other filter."""
    temperature = jnp.asarray(parameters.temperature, jnp.float32)[..., None]
    return ban_ids(logits, parameters.banned_ids) / jnp.where(temperature > 0, temperature, 1.0)


def sample_keys(run_key: Any, step: int | Array, samples: Int[Array, " batch"], group: int) -> Any:
    """One key for each completion: fold_in(fold_in(run key, step), global sample index * group + its place).

    `samples` are global indices of the prompts in the step, so that any mesh and any split of the batch
    draws the same numbers, and no two completions share a key.
    """
    step_key = jax.random.fold_in(run_key, step)
    places = samples[:, None] * group + jnp.arange(group)
    return jax.vmap(jax.vmap(lambda place: jax.random.fold_in(step_key, place)))(places)
