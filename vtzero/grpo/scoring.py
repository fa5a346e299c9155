"""Log-probabilities of completions under a model, for the update, the old policy and the reference alike."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vtzero.grpo.logprobs import chunked_logprobs
from vtzero.grpo.packing import Packing, ShortGrid
from vtzero.models.qwen2_vl.inputs import Prompts
from vtzero.models.qwen2_vl.model import Qwen2VL, predicting_hidden


def group_logprobs(
    model: Qwen2VL,
    prompts: Prompts,
    completion_ids: Int[Array, "batch group length"],
    *,
    packing: Packing | ShortGrid | None = None,
    banned: Bool[np.ndarray, " vocab"] | None = None,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> tuple[Float[Array, "batch group length"], Float[Array, "batch group length"]]:
    """log p of each completion token, and the entropy of the distribution it stands in; float32.

    `banned` ids (those that sampling may not draw) have probability 0 here too. Slots beyond a completion's
    end hold numbers without meaning, -inf among them where the padding is a banned id. With `packing` only
    the slots that it keeps are computed; what comes back is the grid all the same.
    """
    ids = completion_ids if packing is None else packing.pack(completion_ids)
    segments = None if packing is None else packing.segments
    prompt_hidden, completion_hidden = model.read_groups(prompts, ids, segments)
    is_first = None if packing is None else packing.is_first
    hidden = predicting_hidden(prompt_hidden, completion_hidden, prompts, is_first)
    logps, entropy = chunked_logprobs(
        hidden.reshape(-1, hidden.shape[-1]),
        model.head,
        ids.reshape(-1),
        banned=None if banned is None else jnp.asarray(banned),
        temperature=temperature,
        chunk=chunk,
    )
    logps, entropy = logps.reshape(ids.shape), entropy.reshape(ids.shape)
    return (logps, entropy) if packing is None else (packing.unpack(logps), packing.unpack(entropy))


def banned_mask(banned_ids: tuple[int, ...], vocab_size: int) -> Bool[np.ndarray, " vocab"]:
    """True at the ids that may not be drawn."""
    mask = np.zeros(vocab_size, bool)
    mask[list(banned_ids)] = True
    return mask
