"""What a Qwen2-VL costs: floating-point operations, bytes and parameters, from shapes alone.

Pure functions of the config and of real lengths (padding costs a run time, but is no work to be done). They
touch no arrays. The conventions:

- a product of (m, k) and (k, n) counts 2 m k n operations; only matrix products are counted, as is usual
  for model FLOPs (PaLM, arXiv 2204.02311, appendix B), and nothing that a backward pass computes again;
- causal attention counts the pairs that may be seen, n (n + 1) / 2 of a prompt, and not the n^2 that a dense
  mask computes; the patches of an image all see one another;
- every drawn token is read by the decoder, the last one too, as the sampler and the trainer do;
- bytes are those that no program can avoid: each weight once a pass in the dtype of the computation, keys and
  values, gradients and optimizer state. Activations are left out, since how many pass through memory depends
  on fusion. A floor made from them is below what any program reaches.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from vtzero.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig
from vtzero.models.qwen2_vl.inputs import Seen

_FLOAT32 = 4


@dataclass(frozen=True)
class Lengths:
    """The real lengths of a batch of groups: `completions` holds those of each prompt's group.

    `images` are patches, of each image by itself; `prompts` and `completions` are tokens. `seen` is what a
    step has made of the images before: only the rest of the vision encoder is still to be run.
    """

    images: tuple[int, ...]
    prompts: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    seen: Seen | None = None

    @property
    def prompt_tokens(self) -> int:
        return sum(self.prompts)

    @property
    def completion_tokens(self) -> int:
        return sum(map(sum, self.completions))


def equal_lengths(batch: int, patches: int, prompt: int, group: int, completion: int) -> Lengths:
    """A batch of equal groups; `patches` are those of the one image of each prompt, 0 for none."""
    return Lengths((patches,) * batch if patches else (), (prompt,) * batch, ((completion,) * group,) * batch)


@dataclass(frozen=True)
class Flops:
    """Operations of a forward pass: products with parameters, and products among activations."""

    weights: int = 0
    attention: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.weights + other.weights, self.attention + other.attention)


def parameters(config: Qwen2VLConfig) -> dict[str, int]:
    """How many numbers each part holds; `head` is 0 where it is tied to the embedding."""
    text, vision = config.text, config.vision
    table = text.vocab_size * text.hidden_size
    block = _block_products(vision) + 3 * vision.embed_dim + vision.embed_dim  # biases of qkv and proj
    block += _vision_hidden(vision) + vision.embed_dim + 4 * vision.embed_dim  # of the MLP, and two norms
    layer = _layer_products(text) + _query_width(text) + 2 * _key_width(text) + 2 * text.hidden_size
    joined = vision.embed_dim * vision.merge_count
    return {
        "vision": vision.patch_dim * vision.embed_dim + vision.depth * block,
        "merger": _merger_products(vision) + joined + vision.hidden_size + 2 * vision.embed_dim,
        "embedding": table,
        "layers": text.num_hidden_layers * layer,
        "norm": text.hidden_size,
        "head": 0 if config.tie_word_embeddings else table,
    }


def trained_parameters(config: Qwen2VLConfig, freeze: Collection[str] = ()) -> int:
    """Parameters outside the parts that `freeze` names (of `vision`, `merger` and `llm`)."""
    counts = parameters(config)
    llm = sum(counts[part] for part in ("embedding", "layers", "norm", "head"))
    of_part = {"vision": counts["vision"], "merger": counts["merger"], "llm": llm}
    return sum(count for part, count in of_part.items() if part not in freeze)


def patch_embed(vision: VisionConfig, patches: int) -> Flops:
    """Patches to vectors."""
    return Flops(2 * patches * vision.patch_dim * vision.embed_dim)


def vision_blocks(vision: VisionConfig, images: Sequence[int]) -> Flops:
    """The transformer over the patches of each image by itself."""
    pairs = sum(count**2 for count in images)
    return Flops(
        2 * sum(images) * vision.depth * _block_products(vision),
        4 * pairs * vision.depth * vision.embed_dim,
    )


def merger(vision: VisionConfig, patches: int) -> Flops:
    """Blocks of patches to image tokens."""
    return Flops(2 * (patches // vision.merge_count) * _merger_products(vision))


def encode(vision: VisionConfig, images: Sequence[int]) -> Flops:
    """The whole vision encoder on images of so many patches each."""
    patches = sum(images)
    return patch_embed(vision, patches) + vision_blocks(vision, images) + merger(vision, patches)


def see(config: Qwen2VLConfig, images: Sequence[int], seen: Seen = "features") -> int:
    """The images, each once, through the vision encoder as far as `seen`."""
    whole, last = encode(config.vision, images).total, merger(config.vision, sum(images)).total
    return whole if seen == "features" else whole - last


def read_prompts(text: TextConfig, prompts: Sequence[int]) -> Flops:
    """The decoder's layers on prompts of so many tokens each."""
    return _layers(text, sum(prompts), sum(map(_causal_pairs, prompts)))


def read_completions(text: TextConfig, lengths: Lengths) -> Flops:
    """The decoder's layers on the completions, each seeing its prompt and itself."""
    groups = zip(lengths.prompts, lengths.completions, strict=True)
    pairs = sum(prompt * sum(group) + sum(map(_causal_pairs, group)) for prompt, group in groups)
    return _layers(text, lengths.completion_tokens, pairs)


def head(text: TextConfig, positions: int) -> Flops:
    """Logits of so many positions."""
    return Flops(2 * positions * text.hidden_size * text.vocab_size)


def prefill(config: Qwen2VLConfig, lengths: Lengths) -> int:
    """Images, as far as they are not seen yet, and prompts, each once."""
    return (_rest_of_vision(config, lengths) + read_prompts(config.text, lengths.prompts)).total


def decode(config: Qwen2VLConfig, lengths: Lengths) -> int:
    """Draw and read every token of every completion."""
    return (_completions_and_head(config, lengths)).total


def decode_token(config: Qwen2VLConfig, batch: int, group: int, prompt: int, length: int) -> int:
    """Draw token `length` (from 1) of every completion and read it: it sees its prompt and itself."""
    text, rows = config.text, batch * group
    return (_layers(text, rows, rows * (prompt + length)) + head(text, rows)).total


def score(config: Qwen2VLConfig, lengths: Lengths) -> int:
    """A forward pass over the groups, as a reference model or an old policy is read."""
    return prefill(config, lengths) + _completions_and_head(config, lengths).total


def update(config: Qwen2VLConfig, lengths: Lengths, freeze: Collection[str] = ()) -> int:
    """Forward and backward pass: three times `score`, less what frozen parts leave out.

    A product with trained parameters is differentiated in both its factors, one with frozen parameters in its
    input alone, and only where something before it is trained. Attention always has two factors.
    """
    return score(config, lengths) + _backward(config, lengths, freeze)


def recomputed(config: Qwen2VLConfig, lengths: Lengths, freeze: Collection[str] = (), *, layers: bool) -> int:
    """What the backward pass computes again: the logits, and the layers where they are not kept.

    The last product of a layer is not among it, since nothing in that layer needs its result.
    """
    text, vision = config.text, config.vision
    again = head(text, lengths.completion_tokens).total
    if not layers:
        return again
    tokens = lengths.prompt_tokens + lengths.completion_tokens
    again += (read_prompts(text, lengths.prompts) + read_completions(text, lengths)).total
    again -= 2 * tokens * text.num_hidden_layers * text.hidden_size * text.intermediate_size
    if "vision" not in freeze:
        again += vision_blocks(vision, lengths.images).total
        again -= 2 * sum(lengths.images) * vision.depth * vision.embed_dim * _vision_hidden(vision)
    return again


def cache_bytes(text: TextConfig, itemsize: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * text.num_hidden_layers * _key_width(text) * itemsize


def see_bytes(
    config: Qwen2VLConfig,
    images: Sequence[int],
    itemsize: int,
    seen: Seen = "features",
    *,
    replicas: int = 1,
) -> int:
    """The weights of the vision encoder, as far as `seen`, and the patches.

    Here as below it is the sum over all devices, and `replicas` says how many of them (or groups of them,
    along `tensor`) read all weights for their own part of the batch.
    """
    counts = parameters(config)
    weights = counts["vision"] + (counts["merger"] if seen == "features" else 0)
    return (replicas * weights + sum(images) * config.vision.patch_dim) * itemsize


def prefill_bytes(config: Qwen2VLConfig, lengths: Lengths, itemsize: int, *, replicas: int = 1) -> int:
    """The weights of vision encoder and layers, patches and embeddings read, the cache written."""
    counts, vision = parameters(config), config.vision
    weights = _vision_weights(config, lengths) + counts["layers"] + counts["norm"]
    # Features stand where the embeddings of image tokens would: they are counted as those.
    widths = {None: vision.patch_dim, "encoded": vision.embed_dim, "features": 0}
    inputs = sum(lengths.images) * widths[lengths.seen] + lengths.prompt_tokens * config.text.hidden_size
    return (replicas * weights + inputs) * itemsize + lengths.prompt_tokens * cache_bytes(
        config.text, itemsize
    )


def decode_token_bytes(
    config: Qwen2VLConfig,
    batch: int,
    group: int,
    prompt: int,
    length: int,
    itemsize: int,
    *,
    replicas: int = 1,
) -> int:
    """Token `length` (from 1) of every completion: weights, each prompt's cache once, each completion's own.

    Of a completion's own, `length - 1` tokens are read and one is written.
    """
    slots = batch * prompt + batch * group * length
    weights = replicas * _decode_weights(config, 0) + batch * group * config.text.hidden_size
    return weights * itemsize + slots * cache_bytes(config.text, itemsize)


def decode_bytes(config: Qwen2VLConfig, lengths: Lengths, itemsize: int, *, replicas: int = 1) -> int:
    """`decode_token_bytes` over the tokens of completions that end where `lengths` says.

    The weights are read until the longest has ended, a prompt's cache until the longest of its group has.
    """
    steps = max((max(group, default=0) for group in lengths.completions), default=0)
    groups = list(zip(lengths.prompts, lengths.completions, strict=True))
    slots = sum(prompt * max(group, default=0) for prompt, group in groups)
    slots += sum(_causal_pairs(length) for _, group in groups for length in group)
    rows = lengths.completion_tokens * config.text.hidden_size
    weights = replicas * steps * _decode_weights(config, 0) + rows
    return weights * itemsize + slots * cache_bytes(config.text, itemsize)


def score_bytes(config: Qwen2VLConfig, lengths: Lengths, itemsize: int, *, replicas: int = 1) -> int:
    """Every weight once, and the embeddings of the tokens."""
    tokens = lengths.prompt_tokens + lengths.completion_tokens
    weights = replicas * (_vision_weights(config, lengths) + _decode_weights(config, 0))
    return (weights + tokens * config.text.hidden_size) * itemsize


def update_bytes(
    config: Qwen2VLConfig,
    lengths: Lengths,
    itemsize: int,
    freeze: Collection[str] = (),
    micro_batches: int = 1,
    *,
    replicas: int = 1,
    copies: int = 1,
) -> int:
    """Weights twice a micro-batch; gradients, parameters and Adam's two moments in float32.

    A gradient is written and read once a micro-batch; a parameter and its moments are read and written once,
    in each of the `copies` of the optimizer's state along `data`.
    """
    passes = 2 * micro_batches * score_bytes(config, lengths, itemsize, replicas=replicas)
    return passes + copies * trained_parameters(config, freeze) * _FLOAT32 * (2 * micro_batches + 6)


def _rest_of_vision(config: Qwen2VLConfig, lengths: Lengths) -> Flops:
    """What is to be done with the images before the decoder."""
    if lengths.seen is None:
        return encode(config.vision, lengths.images)
    return Flops() if lengths.seen == "features" else merger(config.vision, sum(lengths.images))


def _vision_weights(config: Qwen2VLConfig, lengths: Lengths) -> int:
    """Numbers of the parameters that `_rest_of_vision` reads."""
    counts = parameters(config)
    parts = {None: ("vision", "merger"), "encoded": ("merger",), "features": ()}[lengths.seen]
    return sum(counts[part] for part in parts) if lengths.images else 0


def _completions_and_head(config: Qwen2VLConfig, lengths: Lengths) -> Flops:
    return read_completions(config.text, lengths) + head(config.text, lengths.completion_tokens)


def _backward(config: Qwen2VLConfig, lengths: Lengths, freeze: Collection[str]) -> int:
    text, vision = config.text, config.vision
    patches = sum(lengths.images)
    layers = read_prompts(text, lengths.prompts) + read_completions(text, lengths)
    decoder = layers + head(text, lengths.completion_tokens)
    total = 2 * decoder.attention + (1 if "llm" in freeze else 2) * decoder.weights
    if "vision" not in freeze:
        # The patches are data: nothing asks for their gradient.
        total += patch_embed(vision, patches).total + 2 * vision_blocks(vision, lengths.images).total
    if "merger" not in freeze:
        total += 2 * merger(vision, patches).total
    elif "vision" not in freeze:
        total += merger(vision, patches).total
    return total


def _layers(text: TextConfig, tokens: int, pairs: int) -> Flops:
    return Flops(
        2 * tokens * text.num_hidden_layers * _layer_products(text),
        4 * pairs * text.num_hidden_layers * _query_width(text),
    )


def _decode_weights(config: Qwen2VLConfig, tokens: int) -> int:
    """Numbers of the layers, the last norm and the head, and of the embeddings of `tokens`."""
    counts = parameters(config)
    return counts["layers"] + counts["norm"] + counts["embedding"] + tokens * config.text.hidden_size


def _causal_pairs(length: int) -> int:
    return length * (length + 1) // 2


def _layer_products(text: TextConfig) -> int:
    """Weights of a layer's matrices."""
    attention = text.hidden_size * (2 * _query_width(text) + 2 * _key_width(text))
    return attention + 3 * text.hidden_size * text.intermediate_size


def _query_width(text: TextConfig) -> int:
    return text.num_attention_heads * text.head_dim


def _key_width(text: TextConfig) -> int:
    return text.num_key_value_heads * text.head_dim


def _block_products(vision: VisionConfig) -> int:
    """Weights of a vision block's matrices."""
    return 4 * vision.embed_dim**2 + 2 * vision.embed_dim * _vision_hidden(vision)


def _vision_hidden(vision: VisionConfig) -> int:
    return int(vision.embed_dim * vision.mlp_ratio)


def _merger_products(vision: VisionConfig) -> int:
    joined = vision.embed_dim * vision.merge_count
    return joined**2 + joined * vision.hidden_size
