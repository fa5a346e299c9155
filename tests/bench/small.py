"""A config, a network and shapes small enough to compile in a second or two."""

from vtzero.bench.shapes import config_shapes
from vtzero.config import RunConfig
from vtzero.models.qwen2_vl.config import Qwen2VLConfig, TextConfig, VisionConfig

MODEL = Qwen2VLConfig(
    TextConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        mrope_section=(2, 1, 1),
    ),
    VisionConfig(depth=1, embed_dim=16, hidden_size=16, num_heads=2),
    image_token_id=60,
    video_token_id=61,
    vision_start_token_id=62,
    vision_end_token_id=63,
)
CONFIG = RunConfig(
    dtype="float32",
    prompts_per_step=2,
    num_generations=2,
    max_completion_length=4,
    max_prompt_length=16,
    gradient_checkpointing=False,
)
SHAPES = config_shapes(CONFIG, MODEL, image_size=(56, 56))
