"""A dry run refuses what the run itself would refuse, and counts what it would do."""

from dataclasses import replace

import jax
import pytest

from vtzero.config import ConfigError, RunConfig
from vtzero.models.qwen2_vl.config import PUBLISHED
from vtzero.training.recipe import Sizes, dry_run, memory
from vtzero.training.setup import check_attention, check_batch

CONFIG = RunConfig(output_dir="runs/none", max_prompt_length=112, max_completion_length=72, max_steps=10)
TWO_BILLION = PUBLISHED["Qwen2-VL-2B"]
TWO_BILLION_PARAMETERS = 2_208_985_600


def sizes(**mesh: int) -> Sizes:
    return Sizes(
        TWO_BILLION,
        TWO_BILLION_PARAMETERS,
        TWO_BILLION_PARAMETERS,
        {"data": 1, "fsdp": 1, "tensor": 1} | mesh,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ("visoin",)}, "freeze names 'visoin'"),
        ({"freeze": ("vision", "merger", "llm")}, "nothing is left to train"),
        ({"eval_prompt_template": "unknown"}, "unknown prompt template"),
        ({"eval_data": "unknown"}, "unknown benchmark"),
        ({"method": "sft", "sync_ref_model": True}, "no reference model"),
        ({"adam_beta1": 1.5}, "adam_beta1"),
        ({"model": "models/other"}, "models/other"),
        ({"data": ("unknown",)}, "known source"),
        ({"attention": "splash"}, "'splash' needs a TPU"),
    ],
)
def test_what_the_run_would_refuse_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dry_run(replace(CONFIG, **changes))


def test_tokens_and_completions_are_counted(capsys):
    figures = dry_run(CONFIG)
    assert figures["completions_per_step"] == 64
    assert figures["tokens_per_step"] == {"prompts": 896, "completions": 4608, "at_most": 5504}
    assert figures["tokens_in_all"] == 55040
    assert "parameters" in capsys.readouterr().out


def test_frozen_parts_cost_no_optimizer_state():
    whole = dry_run(CONFIG)
    part = dry_run(replace(CONFIG, freeze=("vision",)))
    assert part["parameters"] == whole["parameters"]
    assert part["trained_parameters"] < whole["trained_parameters"]


def test_memory_is_shared_out_over_the_mesh():
    config = replace(CONFIG, max_pixels=401408)
    one, four = memory(config, sizes()), memory(config, sizes(fsdp=4))
    assert one["parameters"] == pytest.approx(2_208_985_600 * 4 / 2**20, abs=1)
    assert one["optimizer"] == pytest.approx(2 * one["parameters"], abs=2)
    for name in ("parameters", "optimizer", "reference", "gradient", "cache"):
        assert four[name] == pytest.approx(one[name] / 4, abs=1)


def test_activations_grow_with_what_is_kept():
    full, dots, none = (
        memory(replace(CONFIG, **policy), sizes())["activations"]
        for policy in (
            {"gradient_checkpointing_policy": "full"},
            {"gradient_checkpointing_policy": "dots"},
            {"gradient_checkpointing": False, "gradient_checkpointing_policy": "dots"},
        )
    )
    # 28 layers of 1, 15 and 3.3 * 15 arrays of hidden states, and 14 more.
    assert dots / full == pytest.approx((28 * 15 + 14) / (28 + 14), rel=1e-3)
    assert none / full == pytest.approx((28 * 3.3 * 15 + 14) / (28 + 14), rel=1e-3)


def test_a_reference_is_counted_only_where_there_is_one():
    assert memory(replace(CONFIG, beta=0.0), sizes())["reference"] == 0


def test_a_reference_that_stays_is_as_its_folder_has_it_and_one_that_moves_float32():
    stays, moves = memory(CONFIG, sizes()), memory(replace(CONFIG, sync_ref_model=True), sizes())
    assert stays["reference"] == pytest.approx(stays["parameters"] / 2, abs=1)
    assert moves["reference"] == moves["parameters"]


@pytest.mark.parametrize(("gathers", "share"), [(True, 1 / 2), (False, 1 / 8)])
def test_a_rollout_holds_a_copy_of_the_weights_whole_or_divided(gathers, share):
    config = replace(CONFIG, dtype="bfloat16", gather_for_generation=gathers)
    whole = TWO_BILLION_PARAMETERS * share * 2 / 2**20
    assert memory(config, sizes(fsdp=4, tensor=2))["copy"] == pytest.approx(whole, abs=1)


def test_a_batch_that_the_mesh_cannot_share_is_named():
    with pytest.raises(ValueError, match=r"prompts_per_step is 8.*data \* fsdp = 3"):
        check_batch(CONFIG, {"data": 3, "fsdp": 1, "tensor": 1})


def test_a_kernel_that_the_devices_cannot_run_is_named():
    with pytest.raises(ConfigError, match=r"'splash' needs a TPU, and this is bfloat16 on gpu: choose"):
        check_attention(replace(CONFIG, attention="splash", dtype="bfloat16"), "gpu")


def test_packing_where_the_kernel_cannot_is_named():
    with pytest.raises(ConfigError, match="the splash kernel's block mask knows no packed rows"):
        check_attention(replace(CONFIG, packing=True, dtype="bfloat16"), "tpu")
    check_attention(replace(CONFIG, packing=True, attention="xla", dtype="bfloat16"), "tpu")


def test_a_flash_kernel_holds_no_scores(monkeypatch):
    """By blocks on a CPU or by cuDNN, the same run counts a tenth of what the einsums hold, or less."""
    long = replace(CONFIG, max_prompt_length=512, max_completion_length=704, dtype="bfloat16")
    einsums = memory(replace(long, attention="xla"), sizes())["attention"]
    assert memory(long, sizes())["attention"] < einsums / 10
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert memory(long, sizes())["attention"] < einsums / 10
    assert memory(replace(long, attention="xla"), sizes())["attention"] == einsums
