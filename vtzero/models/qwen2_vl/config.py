"""The shape of a Qwen2-VL network, read from a Hugging Face `config.json`.

Knows nothing of weights, files other than the one dictionary it is given, or runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class VisionConfig:
    """Hyper-parameters of the vision encoder (transformers' `Qwen2VLVisionConfig`)."""

    depth: int = 32
    embed_dim: int = 1280
    hidden_size: int = 1536
    mlp_ratio: float = 4
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 14
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def patch_dim(self) -> int:
        """Numbers in one flattened patch: channels * temporal size * patch height * patch width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_count(self) -> int:
        """Patches that the merger joins into one image token."""
        return self.spatial_merge_size**2


@dataclass(frozen=True)
class TextConfig:
    """Hyper-parameters of the decoder (transformers' `Qwen2VLTextConfig`)."""

    vocab_size: int = 151936
    hidden_size: int = 1536
    intermediate_size: int = 8960
    num_hidden_layers: int = 28
    num_attention_heads: int = 12
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Qwen2VLConfig:
    """A whole Qwen2-VL (any published size, base or instruct); `stored_dtype` is that of its files."""

    text: TextConfig
    vision: VisionConfig
    tie_word_embeddings: bool = False
    stored_dtype: str = "float32"
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    @property
    def vision_token_ids(self) -> tuple[int, ...]:
        """Ids that a completion may never contain: the model reads pictures, it does not write them."""
        return (
            self.vision_start_token_id,
            self.vision_end_token_id,
            self.image_token_id,
            self.video_token_id,
        )


def _published(
    hidden: int, layers: int, heads: int, kv_heads: int, mlp: int, vocabulary: int, *, tied: bool
) -> Qwen2VLConfig:
    text = TextConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    vision = VisionConfig(hidden_size=hidden)
    return Qwen2VLConfig(text, vision, tie_word_embeddings=tied, stored_dtype="bfloat16")


PUBLISHED = {
    "Qwen2-VL-2B": _published(1536, 28, 12, 2, 8960, 151936, tied=True),
    "Qwen2-VL-7B": _published(3584, 28, 28, 4, 18944, 152064, tied=False),
    "Qwen2-VL-72B": _published(8192, 80, 64, 8, 29568, 152064, tied=False),
}
"""The published sizes, base and instruct alike (each hub config.json), for planning without a file."""


_MOST = {"vocab_size": 2**24, "hidden_size": 2**17, "intermediate_size": 2**20, "num_hidden_layers": 1024}
_MOST |= {"num_attention_heads": 4096, "num_key_value_heads": 4096}
_MOST_OF_VISION = {"depth": 1024, "embed_dim": 2**17, "hidden_size": 2**17, "num_heads": 4096}
_MOST_OF_VISION |= {"patch_size": 1024, "spatial_merge_size": 64, "temporal_patch_size": 64}
"""The largest sizes that are believed, far beyond any model: what is made of a config is made of them."""
_MOST_CHANNELS = 64
_STORED_DTYPES = ("float32", "bfloat16", "float16")
_TOKEN_FIELDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def parse_config(raw: Mapping[str, Any]) -> Qwen2VLConfig:
    """Read the dictionary of a `config.json`, flat as on the hub or nested as transformers 5 writes it.

    Raises ValueError that names the key when one is missing or asks for something this port does not compute.
    """
    if raw.get("model_type") != "qwen2_vl":
        kind = raw.get("model_type")
        raise ValueError(f"config.json: model_type is {kind!r}, but only 'qwen2_vl' is supported")
    text = _section(raw, "text_config") or raw
    _required(raw, "vision_config")
    vision = _section(raw, "vision_config")
    # Older versions of transformers wrote it inside text_config; a true in either place ties.
    tied = raw.get("tie_word_embeddings") or text.get("tie_word_embeddings")
    config = Qwen2VLConfig(
        text=_parse_text(text),
        vision=_parse_vision(vision),
        tie_word_embeddings=bool(tied),
        # transformers 5 writes `dtype`, as versions before it wrote `torch_dtype`.
        stored_dtype=raw.get("dtype") or raw.get("torch_dtype") or "float32",
        **{name: _size(raw, name, _MOST["vocab_size"], least=0) for name in _TOKEN_FIELDS if name in raw},
    )
    _check(config)
    return config


def _parse_text(raw: Mapping[str, Any]) -> TextConfig:
    if raw.get("use_sliding_window"):
        raise ValueError("config.json: use_sliding_window is true, but sliding attention is not supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"config.json: hidden_act is {raw['hidden_act']!r}, but the decoder uses 'silu'")
    rope = _section(raw, "rope_parameters") or _section(raw, "rope_scaling")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("mrope", "default"):
        raise ValueError(f"config.json: rope type {kind!r} is not supported; Qwen2-VL uses 'mrope'")
    theta = rope if "rope_theta" in rope else raw
    return TextConfig(
        rope_theta=_number(theta, "rope_theta", 1000000.0),
        rms_norm_eps=_number(raw, "rms_norm_eps"),
        mrope_section=_mrope_section(rope.get("mrope_section", [16, 24, 24])),
        **{name: _size(raw, name, most) for name, most in _MOST.items()},
    )


def _parse_vision(raw: Mapping[str, Any]) -> VisionConfig:
    if raw.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise ValueError(f"config.json: vision hidden_act {raw['hidden_act']!r} is not supported")
    # The hub's files call it in_chans; transformers writes in_channels.
    channels = "in_channels" if "in_channels" in raw else "in_chans"
    return VisionConfig(
        in_channels=_size(raw, channels, _MOST_CHANNELS) if channels in raw else 3,
        rope_theta=_number(_section(raw, "rope_parameters"), "rope_theta", 10000.0),
        mlp_ratio=_number(raw, "mlp_ratio", 4, most=64),
        **{name: _size(raw, name, most) for name, most in _MOST_OF_VISION.items() if name in raw},
    )


def _mrope_section(value: Any) -> tuple[int, int, int]:
    parts = value if isinstance(value, list) else []
    if len(parts) != 3 or not all(type(part) is int and part > 0 for part in parts):
        raise ValueError(f"config.json: mrope_section is {_shown(value)}; it must be three whole numbers")
    time, height, width = parts
    return time, height, width


def _required(raw: Mapping[str, Any], name: str) -> Any:
    if name not in raw:
        raise ValueError(f"config.json: the key {name!r} is missing")
    return raw[name]


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"config.json: {name} is {_shown(value)}; it must be an object")
    return value


def _size(raw: Mapping[str, Any], name: str, most: int, least: int = 1) -> int:
    value = _required(raw, name)
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"config.json: {name} is {_shown(value)}; it must be a whole number from {least} to {most}"
        )
    return value


def _number(raw: Mapping[str, Any], name: str, default: float | None = None, most: float = 1e12) -> float:
    value = _required(raw, name) if default is None else raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-12 <= value <= most:
        raise ValueError(f"config.json: {name} is {_shown(value)}; it must be from 1e-12 to {most:g}")
    return value


def _shown(value: Any) -> str:
    too_long = isinstance(value, int) and abs(value) > 10**80
    return "a number of very many digits" if too_long else repr(value)[:80]


def _check(config: Qwen2VLConfig) -> None:
    text, vision = config.text, config.vision
    if sum(text.mrope_section) * 2 != text.head_dim:
        raise ValueError(
            f"config.json: mrope_section {text.mrope_section} must add up to half of {text.head_dim}"
        )
    if text.hidden_size % text.num_attention_heads:
        raise ValueError("config.json: hidden_size must be a multiple of num_attention_heads")
    if vision.embed_dim % (4 * vision.num_heads):
        raise ValueError("config.json: vision embed_dim must be a multiple of 4 * num_heads")
    if config.stored_dtype not in _STORED_DTYPES:
        allowed = ", ".join(_STORED_DTYPES)
        raise ValueError(f"config.json: dtype is {_shown(config.stored_dtype)}; it must be one of {allowed}")
    if (last := max(config.vision_token_ids)) >= text.vocab_size:
        raise ValueError(f"config.json: the vision token {last} is not below vocab_size {text.vocab_size}")
    if text.num_attention_heads % text.num_key_value_heads:
        raise ValueError("config.json: num_attention_heads must be a multiple of num_key_value_heads")
    if vision.hidden_size != text.hidden_size:
        raise ValueError(
            f"config.json: vision hidden_size {vision.hidden_size} differs from the text's {text.hidden_size}"
        )
