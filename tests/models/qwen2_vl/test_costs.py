"""Costs from shapes against XLA's own count of the real functions, and against parameter shapes."""

import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from vtzero.grpo.scoring import group_logprobs
from vtzero.models.qwen2_vl import costs
from vtzero.models.qwen2_vl.config import PUBLISHED, Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.models.qwen2_vl.weights import parameter_shapes
from vtzero.training.state import FROZEN_PARTS, split_model

# Few enough layers that they are unrolled: XLA counts the body of a loop once, however often it runs.
SMALL = Qwen2VLConfig(
    TextConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
    ),
    VisionConfig(depth=2, embed_dim=128, hidden_size=256, num_heads=2),
    image_token_id=1000,
)
BATCH, PATCHES, PROMPT, GROUP, LENGTH = 2, 64, 48, 3, 40
LENGTHS = costs.equal_lengths(BATCH, PATCHES, PROMPT, GROUP, LENGTH)
ELEMENTWISE = 0.03  # XLA counts norms, softmax and rotations too; at these widths they are less than this
FREEZES = [(), ("vision",), ("merger",), ("vision", "merger"), ("llm",), ("llm", "vision")]


@cache
def pieces(remat="none"):
    return nnx.split(nnx.eval_shape(lambda: Qwen2VL(SMALL, rngs=nnx.Rngs(0), remat=remat)))


def prompts():
    ints = {"ids": (BATCH, PROMPT), "positions": (3, BATCH, PROMPT), "start": (BATCH,)}
    ints |= {"patch_positions": (BATCH, PATCHES, 2), "segments": (BATCH, PATCHES)}
    return Prompts(
        **{name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in ints.items()},
        mask=jax.ShapeDtypeStruct((BATCH, PROMPT), bool),
        patches=jax.ShapeDtypeStruct((BATCH, PATCHES, SMALL.vision.patch_dim), jnp.float32),
    )


def completion_ids():
    return jax.ShapeDtypeStruct((BATCH, GROUP, LENGTH), jnp.int32)


def counted(function, *arguments):
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def masked(length):
    """Pairs of a causal square that a dense mask computes and throws away, as operations of one sequence."""
    text = SMALL.text
    return 4 * text.num_hidden_layers * text.hidden_size * (length**2 - length * (length + 1) // 2)


def dense_score():
    return costs.score(SMALL, LENGTHS) + BATCH * masked(PROMPT) + BATCH * GROUP * masked(LENGTH)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_model(name):
    config = PUBLISHED[name]
    assert sum(costs.parameters(config).values()) == sum(map(math.prod, parameter_shapes(config).values()))


def test_the_published_checkpoints_have_as_many_parameters():
    # total_size of the hub's model.safetensors.index.json, in bytes of bfloat16.
    assert sum(costs.parameters(PUBLISHED["Qwen2-VL-2B"]).values()) == 4_417_971_200 // 2
    assert sum(costs.parameters(PUBLISHED["Qwen2-VL-7B"]).values()) == 16_582_751_232 // 2


@pytest.mark.parametrize("freeze", FREEZES)
def test_trained_parameters_are_those_outside_the_frozen_parts(freeze):
    held = (
        math.prod(shape)
        for path, shape in parameter_shapes(SMALL).items()
        if not any(FROZEN_PARTS[part](path) for part in freeze)
    )
    assert costs.trained_parameters(SMALL, freeze) == sum(held)


def test_vision_and_prefill_cost_what_xla_counts():
    graphdef, params = pieces()

    def encode(params, prompts):
        visual = nnx.merge(graphdef, params).visual
        return visual(prompts.patches, prompts.patch_positions, prompts.segments)

    expected = costs.encode(SMALL.vision, LENGTHS.images).total
    assert counted(encode, params, prompts()) == pytest.approx(expected, rel=ELEMENTWISE)
    read = counted(lambda params, x: nnx.merge(graphdef, params).read_prompts(x), params, prompts())
    expected = costs.prefill(SMALL, LENGTHS) + BATCH * masked(PROMPT)
    assert read == pytest.approx(expected, rel=ELEMENTWISE)


def test_scoring_costs_what_xla_counts():
    graphdef, params = pieces()
    read = counted(
        lambda params, x, ids: group_logprobs(nnx.merge(graphdef, params), x, ids)[0],
        params,
        prompts(),
        completion_ids(),
    )
    assert read == pytest.approx(dense_score(), rel=ELEMENTWISE)


def test_a_decoded_token_costs_what_xla_counts():
    graphdef, params = pieces()

    def step(params, tokens, slot, cache, completions):
        model = nnx.merge(graphdef, params)
        hidden, completions = model.decode_step(tokens, tokens, slot, cache, completions)
        return model.logits(hidden), completions

    model = nnx.merge(graphdef, params)
    _, cache = jax.eval_shape(
        lambda params, x: nnx.merge(graphdef, params).read_prompts(x), params, prompts()
    )
    completions = jax.eval_shape(lambda: model.model.empty_cache(BATCH, GROUP, LENGTH, jnp.float32))
    tokens = jax.ShapeDtypeStruct((BATCH, GROUP), jnp.int32)
    slot = jax.ShapeDtypeStruct((), jnp.int32)
    read = counted(step, params, tokens, slot, cache, completions)
    expected = costs.decode_token(SMALL, BATCH, GROUP, PROMPT, LENGTH)  # the step reads every slot
    assert read == pytest.approx(expected, rel=ELEMENTWISE)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("freeze", FREEZES)
def test_an_update_costs_what_xla_counts(freeze, remat):
    parts, trainable, frozen = split_model(*pieces(remat), freeze)
    chunks = 2

    def loss(trainable, frozen, x, ids):
        chunk = BATCH * GROUP * LENGTH // chunks
        return group_logprobs(parts.merge(trainable, frozen), x, ids, chunk=chunk)[0].sum()

    read = counted(jax.grad(loss), trainable, frozen, prompts(), completion_ids())
    head = costs.head(SMALL.text, LENGTHS.completion_tokens).total
    passes = 3 if "llm" in freeze else 4  # forward, again, and backward
    read += passes * head * (chunks - 1) // chunks  # the loop over chunks is counted once
    expected = costs.update(SMALL, LENGTHS, freeze) + 3 * (dense_score() - costs.score(SMALL, LENGTHS))
    expected += costs.recomputed(SMALL, LENGTHS, freeze, layers=remat == "full")
    expected += (dense_score() - costs.score(SMALL, LENGTHS)) if remat == "full" else 0
    assert read == pytest.approx(expected, rel=ELEMENTWISE)


@pytest.mark.parametrize(("freeze", "seen"), [(("vision",), "encoded"), (("vision", "merger"), "features")])
def test_what_is_left_of_images_that_were_seen_costs_what_xla_counts(freeze, seen):
    """Images and prompts alone, of which the merger is a great part; forward, and with backward."""
    parts, trainable, frozen = split_model(*pieces(), freeze)
    sizes = {"encoded": (PATCHES, SMALL.vision.embed_dim), "features": (PATCHES // 4, SMALL.text.hidden_size)}
    given = replace(prompts(), **{seen: jax.ShapeDtypeStruct((BATCH, *sizes[seen]), jnp.float32)})
    lengths = replace(costs.equal_lengths(BATCH, PATCHES, PROMPT, 0, 0), seen=seen)

    def read(trainable, frozen, given):
        return parts.merge(trainable, frozen).read_prompts(given)[0].sum()

    dense = BATCH * masked(PROMPT)
    expected = costs.prefill(SMALL, lengths) + dense
    assert counted(read, trainable, frozen, given) == pytest.approx(expected, rel=ELEMENTWISE)
    expected = costs.update(SMALL, lengths, freeze) + 3 * dense
    assert counted(jax.grad(read), trainable, frozen, given) == pytest.approx(expected, rel=ELEMENTWISE)
    last = costs.merger(SMALL.vision, BATCH * PATCHES).total
    assert (last if seen == "encoded" else 0) == costs.prefill(SMALL, lengths) - costs.prefill(
        SMALL, replace(lengths, images=())
    )


@pytest.mark.parametrize("seen", ["encoded", "features"])
def test_seeing_and_the_rest_are_the_whole(seen):
    rest = replace(LENGTHS, seen=seen)
    whole = costs.see(SMALL, LENGTHS.images, seen) + costs.prefill(SMALL, rest)
    assert whole == costs.prefill(SMALL, LENGTHS)
    once = costs.see_bytes(SMALL, LENGTHS.images, 2, seen) + costs.prefill_bytes(SMALL, rest, 2)
    between = {"encoded": sum(LENGTHS.images) * SMALL.vision.embed_dim * 2, "features": 0}[seen]
    assert once == costs.prefill_bytes(SMALL, LENGTHS, 2) + between


def test_frozen_parts_cost_less():
    whole = costs.update(SMALL, LENGTHS)
    vision = costs.update(SMALL, LENGTHS, ("vision",))
    both = costs.update(SMALL, LENGTHS, ("vision", "merger"))
    assert both < vision < whole == pytest.approx(3 * costs.score(SMALL, LENGTHS), rel=0.03)
    assert costs.update(SMALL, LENGTHS, ("llm",)) < whole


def test_decoding_is_the_sum_of_its_tokens():
    lengths = range(1, LENGTH + 1)
    tokens = (costs.decode_token(SMALL, BATCH, GROUP, PROMPT, length) for length in lengths)
    assert costs.decode(SMALL, LENGTHS) == sum(tokens)
    read = (costs.decode_token_bytes(SMALL, BATCH, GROUP, PROMPT, length, 2) for length in lengths)
    assert costs.decode_bytes(SMALL, LENGTHS, 2) == sum(read)


def test_completions_that_have_ended_read_nothing():
    whole = costs.decode_bytes(SMALL, LENGTHS, 2)
    short = costs.Lengths(LENGTHS.images, LENGTHS.prompts, ((LENGTH, 1, 1), (1, 1, 1)))
    one = costs.Lengths((), (PROMPT,), ((LENGTH,),))
    assert costs.decode_bytes(SMALL, one, 2) < costs.decode_bytes(SMALL, short, 2) < whole


def test_bytes_of_the_published_2b_model():
    config = PUBLISHED["Qwen2-VL-2B"]
    # 28 layers, 2 key heads of 128 numbers, keys and values, bfloat16: 28,672 bytes a token.
    assert costs.cache_bytes(config.text, 2) == 28_672
    # One token after a prompt of 400: the 1,543,714,304 weights of Qwen2-1.5B, an embedding, 401 slots.
    read = costs.decode_token_bytes(config, 1, 1, 400, 1, 2)
    assert read == 2 * (1_543_714_304 + 1536) + 401 * 28_672


def test_prefill_score_and_update_move_every_weight():
    counts = costs.parameters(SMALL)
    tied = Qwen2VLConfig(SMALL.text, SMALL.vision, tie_word_embeddings=True)
    nothing = costs.Lengths((1,), (0,), ((0,),))
    everything = sum(costs.parameters(tied).values())
    assert costs.score_bytes(tied, nothing, 4) == 4 * everything
    assert costs.prefill_bytes(tied, nothing, 4) == pytest.approx(
        4 * (everything - counts["embedding"]), rel=1e-2
    )
    assert costs.update_bytes(tied, nothing, 4) == 4 * everything * 2 + 32 * everything
    assert costs.update_bytes(tied, nothing, 4, ("llm",)) < costs.update_bytes(tied, nothing, 4)


def test_replicas_read_the_weights_once_more_each():
    none = costs.Lengths((), (), ())
    for moved in (costs.prefill_bytes, costs.score_bytes):
        once = moved(SMALL, none, 2)
        assert moved(SMALL, none, 2, replicas=3) == 3 * once
        assert moved(SMALL, LENGTHS, 2, replicas=3) - moved(SMALL, LENGTHS, 2) >= 2 * once
    grows = [costs.decode_bytes(SMALL, LENGTHS, 2, replicas=count) for count in (1, 2, 3)]
    assert grows[2] - grows[1] == grows[1] - grows[0] > 0
    updates = [costs.update_bytes(SMALL, none, 2, copies=count) for count in (1, 2)]
    assert updates[1] - updates[0] == 8 * 4 * costs.trained_parameters(SMALL, ())
