"""`config.json` as the hub stores it and as transformers 5 writes it, and what is refused."""

import pytest
from models.torch_twin import twin_config
from transformers import Qwen2VLConfig as TorchConfig

from vtzero.models.qwen2_vl.config import TextConfig, VisionConfig, parse_config


def hub_config() -> dict:
    """The keys of Qwen/Qwen2-VL-2B's config.json that matter here: flat, with the hub's own spellings."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "max_position_embeddings": 32768,
        "model_type": "qwen2_vl",
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_sliding_window": False,
        "vision_config": {
            "depth": 32,
            "embed_dim": 1280,
            "mlp_ratio": 4,
            "num_heads": 16,
            "in_chans": 3,
            "hidden_size": 1536,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vocab_size": 151936,
    }


def test_the_hubs_flat_config():
    config = parse_config(hub_config())
    assert config.text == TextConfig()
    assert config.vision == VisionConfig()
    assert config.tie_word_embeddings
    assert config.vision_token_ids == (151652, 151653, 151655, 151656)
    assert (config.text.head_dim, config.vision.head_dim, config.vision.patch_dim) == (128, 80, 1176)


def test_nested_and_flat_configs_say_the_same():
    nested = TorchConfig(**hub_config()).to_dict()
    assert "text_config" in nested
    assert "hidden_size" not in nested
    assert parse_config(nested) == parse_config(hub_config())


def test_every_field_of_a_config_that_is_not_the_default():
    twin = twin_config(heads=6, kv_heads=3, head_dim=16, layers=3, tied=True)
    config = parse_config(twin.to_dict())
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps"):
        assert getattr(config.text, name) == getattr(twin.text_config, name)
    assert (config.text.num_attention_heads, config.text.num_key_value_heads) == (6, 3)
    assert (config.text.rope_theta, config.text.mrope_section) == (10000.0, (4, 2, 2))
    for name in ("depth", "embed_dim", "hidden_size", "mlp_ratio", "num_heads", "patch_size", "in_channels"):
        assert getattr(config.vision, name) == getattr(twin.vision_config, name)
    assert config.vision_token_ids == (92, 93, 90, 91)


@pytest.mark.parametrize(
    ("root", "text", "tied"), [(True, False, True), (False, True, True), (False, False, False)]
)
def test_tying_may_be_asked_for_inside_text_config(root, text, tied):
    nested = TorchConfig(**hub_config()).to_dict()
    nested["tie_word_embeddings"] = root
    nested["text_config"]["tie_word_embeddings"] = text
    assert parse_config(nested).tie_word_embeddings is tied
    assert TorchConfig(**nested).tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "qwen2_5_vl"}, "model_type is 'qwen2_5_vl'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 16, 16]}}, "mrope_section"),
        ({"num_key_value_heads": 5}, "multiple of num_key_value_heads"),
        ({"vision_config": {"hidden_size": 2048}}, "vision hidden_size 2048"),
        ({"vision_config": {"hidden_size": 1536, "hidden_act": "silu"}}, "vision hidden_act 'silu'"),
    ],
)
def test_what_is_not_computed_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parse_config(hub_config() | change)


@pytest.mark.parametrize("key", ["vision_config", "vocab_size", "num_key_value_heads", "rms_norm_eps"])
def test_a_missing_key_is_named(key):
    raw = hub_config()
    del raw[key]
    with pytest.raises(ValueError, match=f"'{key}' is missing"):
        parse_config(raw)
