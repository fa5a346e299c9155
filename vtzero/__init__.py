"""vtzero: VisualThinker-R1-Zero (GRPO on Qwen2-VL) in JAX and Flax."""

__version__ = "0.1.0"
