"""Bad configs, each through the command: exit code 2, and one line that names the key or file."""

import dataclasses
import typing
from pathlib import Path

import pytest
from fixtures.command import vtzero

from vtzero.cli import main
from vtzero.config import ConfigError, MeshConfig, RunConfig, build_config, load_config
from vtzero.training.loop import train

GOOD = "max_prompt_length: 112\nmax_completion_length: 72\nmax_steps: 2\nmax_images: 1\n"
LAUGHS = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha]\n"
LAUGHS += "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 8)}]\n" for n in range(9))

FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "only comments": (b"# nothing yet\n", "is empty"),
    "a list at the top": (b"- 1\n- 2\n", "expected keys and values, found a list"),
    "an empty list": (b"[]\n", "expected keys and values, found a list"),
    "a text": (b"train\n", "expected keys and values, found a str"),
    "a number": (b"0\n", "expected keys and values, found a int"),
    "a key without its colon": (b"seed 1\nbeta: 2\n", "not YAML: line 2"),
    "an open bracket": (b"data: [a, b\n", "not YAML: line 2"),
    "a tab before a key": (b"mesh:\n\tdata: 1\n", "line 2: found character '\\t'"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "line 2"),
    "a key twice": (b"seed: 1\nbeta: 0.1\nseed: 2\n", "line 3: the key 'seed' is there twice"),
    "a key of a section twice": (b"mesh: {data: 1, fsdp: 2, data: 2}\n", "the key 'data' is there twice"),
    "a key twice, once in quotes": (b"seed: 1\n'seed': 2\n", "line 2: the key 'seed' is there twice"),
    "a tag that runs code": (b"model: !!python/object/apply:os.system ['touch RAN']\n", "is a tag"),
    "a tag that imports": (b"model: !!python/name:os.system\n", "is a tag"),
    "an own tag": (b"model: !model tiny\n", "line 1: '!model' is a tag"),
    "binary text": (b"model: !!binary dGlueQ==\n", "is a tag"),
    "an alias": (b"data: &d [scenes]\nfreeze: *d\n", "line 2: *d is an alias; write its value out"),
    "a billion laughs": (LAUGHS.encode(), "is an alias"),
    "a merge": (b"<<: {seed: 1}\n", "unknown key '<<'"),
    "nested 10,000 deep": (b"data: " + b"[" * 10_000, "nested deeper than 8 levels"),
    "sections 10,000 deep": (b"mesh: " + b"{a: " * 10_000, "nested deeper than 8 levels"),
    "50 MB": (b"#" * 50_000_000, "longer than 262144 characters"),
    "no UTF-8": ("model: modèle\n".encode("latin-1"), "is not UTF-8 text"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "is not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is not UTF-8 text"),
    "a NUL": (b"seed: 1\0\n", "unacceptable character"),
    "an escape sequence": (b"model: \x1b[31mred\n", "unacceptable character"),
    "a key that is a number": (b"1: 2\n", "unknown key '1'"),
    "a key that is null": (b"null: 2\n", "unknown key 'None'"),
    "a key that is a list": (b"? [seed]\n: 1\n", "a key is a list"),
    "a key of 100,000 letters": (b"s" * 100 + b": 1\n", "unknown key"),
    "5,000 digits": (b"seed: " + b"9" * 5000 + b"\n", "4300 digits"),
}

VALUES: dict[str, str] = {
    "unknown_key: 1": "unknown key 'unknown_key'",
    "num_generation: 4": "did you mean 'num_generations'?",
    "Seed: 4": "did you mean 'seed'?",
    "mesh: {fsdpp: 2}": "unknown key 'mesh.fsdpp'; did you mean 'fsdp'?",
    "mesh: 4": "mesh is a section of keys, found 4",
    "mesh: null": "mesh is a section of keys, found None",
    "mesh: [1, 2]": "mesh is a section of keys, found [1, 2]",
    "mesh: {data: 0}": "mesh.data is 0; it must be -1 for the rest, or at least 1",
    "mesh: {tensor: -2}": "mesh.tensor is -2",
    "mesh: {fsdp: 1.5}": "mesh.fsdp is 1.5; it must be a whole number",
    "seed: {a: 1}": "seed is {'a': 1}; it must be a whole number",
    "seed: 1.0": "seed is 1.0; it must be a whole number",
    "seed: '1'": "seed is '1'; it must be a whole number",
    "seed: true": "seed is True; it must be a whole number",
    "seed: -1": "seed is -1; it must be at least 0",
    "seed: 4294967296": "at most 4,294,967,295",
    "seed: 18446744073709551616": "seed is 18446744073709551616",
    "seed: 010": "seed is '010'; it must be a whole number",
    "seed: 1:30": "seed is '1:30'; it must be a whole number",
    "seed: 2020-01-01": "seed is '2020-01-01'; it must be a whole number",
    "max_steps: 0": "max_steps is 0; it must be at least 1",
    "max_steps: 1000000000000000000000000000000": "at most 10,000,000",
    "max_steps: null": "max_steps is None; it must be a whole number",
    "max_steps: [1]": "max_steps is [1]; it must be a whole number",
    "max_steps: .inf": "max_steps is inf; it must be a whole number",
    "{max_steps: 9000000, num_iterations: 2}": "max_steps * num_iterations is 18000000",
    "prompts_per_step: -8": "prompts_per_step is -8; it must be at least 1",
    "prompts_per_step: 100000000": "prompts_per_step is 100000000",
    "{prompts_per_step: 1000000, max_prompt_length: 9000}": "prompts_per_step is 1000000; it must be lower",
    "{eval_batch_size: 1000000, max_prompt_length: 9000}": "eval_batch_size is 1000000; it must be lower",
    "num_generations: 1": "num_generations is 1; it must be at least 2",
    "num_iterations: 0": "num_iterations is 0",
    "gradient_accumulation_steps: 3": "a divisor of prompts_per_step (8)",
    "gradient_accumulation_steps: -1": "gradient_accumulation_steps is -1",
    "temperature: 0": "temperature is 0.0; it must be above 0",
    "temperature: 1e-40": "temperature is 1e-40",
    "temperature: '1.0'": "temperature is '1.0'; it must be a number",
    "top_k: -1": "top_k is -1",
    "top_p: 0": "top_p is 0.0; it must be in (0, 1]",
    "top_p: 1.01": "top_p is 1.01",
    "min_p: 1": "min_p is 1.0; it must be in [0, 1)",
    "repetition_penalty: 0": "repetition_penalty is 0.0; it must be above 0",
    "reward_timeout: 0": "reward_timeout is 0.0; it must be above 0 seconds",
    "reward_timeout: 1e9": "reward_timeout is 1000000000.0",
    "completion_length_buckets: [0]": "completion_length_buckets is [0]",
    "completion_length_buckets: [700]": "completion_length_buckets is [700]; it must be ascending lengths",
    "completion_length_buckets: [48, 32]": "completion_length_buckets is [48, 32]; it must be ascending",
    "completion_length_buckets: [32, 32]": "completion_length_buckets is [32, 32]; it must be ascending",
    "soft_punish_cache: 701": "from 0 to max_completion_length (700)",
    "reward_funcs: []": "reward_funcs is []; it must be at least one reward",
    "reward_funcs: [length, length]": "each reward once",
    "reward_funcs: [1]": "reward_funcs is 1; it must be text",
    "reward_weights: [1.0]": "empty or as many as reward_funcs (2)",
    "reward_weights: [1.0, .nan]": "reward_weights is [1.0, nan]; it must be a finite number",
    "loss_type: ppo": "loss_type is 'ppo'; it must be one of grpo, bnpo, dr_grpo, dapo",
    "loss_type: [grpo]": "loss_type is ['grpo']",
    "method: rl": "method is 'rl'; it must be one of grpo, sft",
    "dtype: float16": "dtype is 'float16'; it must be one of auto, float32, bfloat16",
    "scale_rewards: null": "scale_rewards is None; it must be one of group, batch, none",
    "beta: -0.1": "beta is -0.1; it must be at least 0",
    "epsilon: -1": "epsilon is -1.0",
    "ref_model_mixup_alpha: 2": "ref_model_mixup_alpha is 2.0; it must be in [0, 1]",
    "learning_rate: -1": "learning_rate is -1.0",
    "learning_rate: 1e999": "learning_rate is inf",
    "learning_rate: fast": "learning_rate is 'fast'; it must be a number",
    "adam_beta1: 1": "adam_beta1 is 1.0; it must be in [0, 1)",
    "adam_beta2: 0.99999999999": "adam_beta2 is 0.99999999999; it must be in [0, 1)",
    "adam_epsilon: 0": "adam_epsilon is 0.0; it must be from 1e-30",
    "lr_scheduler_type: warmup": "it must be one of constant, linear, cosine",
    "lr_scheduler_type: off": "lr_scheduler_type is False; it must be one of",
    "lr_schedule_steps: 0": "lr_schedule_steps is 0; it must be at least 1",
    "warmup_steps: -1": "warmup_steps is -1; it must be at least 0",
    "gradient_checkpointing: 1": "gradient_checkpointing is 1; it must be true or false",
    "tensorboard: null": "tensorboard is None; it must be true or false",
    "wandb: offline": "wandb is 'offline'; it must be true or false",
    "print_completions_steps: -1": "print_completions_steps is -1; it must be at least 0",
    "print_completions_steps: true": "print_completions_steps is True; it must be a whole number",
    "log_completions: 'yes'": "log_completions is 'yes'; it must be true or false",
    "data: []": "data is []; it must be at least one source",
    "data: {scenes: 1}": "data is {'scenes': 1}; it must be text",
    "data: [scenes, null]": "data is None; it must be text",
    "data_weights: [1, 2]": "empty or a number above 0 for each of data (1)",
    "data_weights: [0]": "data_weights is [0.0]; it must be above 0",
    "data_limit: 0": "data_limit is 0; it must be at least 1",
    "data_limit: -5": "data_limit is -5",
    "max_images: -1": "max_images is -1",
    "min_pixels: 0": "min_pixels is 0; it must be at least 1",
    "{min_pixels: 9000, max_pixels: 900}": "max_pixels is 900; it must be at least min_pixels (9000)",
    "{min_pixels: 9000, eval_max_pixels: 900}": "eval_max_pixels is 900",
    "max_pixels: 99999999999": "max_pixels is 99999999999",
    "eval_limit: 0": "eval_limit is 0; it must be at least 1",
    "eval_limit: -1": "eval_limit is -1",
    "save_total_limit: 0": "save_total_limit is 0; it must be at least 1",
    "save_total_limit: -1": "save_total_limit is -1",
    "save_steps: 0": "save_steps is 0",
    "logging_steps: 0.5": "logging_steps is 0.5; it must be a whole number",
    "max_bad_steps: 0": "max_bad_steps is 0",
    "max_logp_difference: 0": "above 0, or null for no bound",
    "max_rejected_share: 1.1": "max_rejected_share is 1.1; it must be in [0, 1]",
    "max_failed_share: -0.1": "max_failed_share is -0.1",
    "output_dir: ''": "output_dir is ''; it must be the path of a folder",
    "output_dir: null": "output_dir is None; it must be text",
    'output_dir: "a\\0b"': "output_dir is 'a\\x00b'; it must be text in one line",
    'model: "a\\nb"': "model is 'a\\nb'; it must be text in one line",
    'model: "\\ud800"': "model is '\\ud800'; it must be text in one line",
    f"model: {'m' * 300}": "255 between slashes",
    f"model: {'models/' * 900}": "at most 4096 bytes long",
}

OVERRIDES: dict[str, tuple[list[str], str]] = {
    "no dashes": (["seed", "1"], "expected --key value, found 'seed'"),
    "one dash": (["-seed", "1"], "expected --key value, found '-seed'"),
    "dashes alone": (["--seed", "1", "--", "2"], "expected --key value"),
    "no value": (["--seed"], "--seed has no value"),
    "another key for a value": (["--seed", "--beta", "1"], "--seed has no value"),
    "nothing after =": (["--seed="], "--seed has no value"),
    "an empty value": (["--eval_data", ""], "--eval_data has no value; write null where none is meant"),
    "no key": (["--=1"], "unknown key ''"),
    "unknown": (["--learning_rat", "1"], "did you mean 'learning_rate'?"),
    "below a number": (["--mesh.fsdp.x", "1"], "mesh.fsdp is {'x': 1}; it must be a whole number"),
    "below a value": (["--max_steps.x", "1"], "--max_steps.x: max_steps is not a section"),
    "two dots": (["--mesh..fsdp", "1"], "unknown key 'mesh.'"),
    "a section by a number": (["--mesh", "4"], "mesh is a section of keys, found 4"),
    "a tag": (["--seed", "!!python/object/apply:os.system ['touch RAN']"], "; it must be a whole number"),
    "an alias bomb": (["--data_weights", "[&a [1, 1], *a, *a]"], "data_weights is '[&a [1, 1], *a, *a]'"),
    "deep": (["--data", "[" * 5000], "between slashes"),
    "NaN": (["--beta", ".nan"], "beta is nan; it must be at least 0"),
    "nan in words": (["--beta", "nan"], "beta is 'nan'; it must be a number"),
}

LATER: dict[str, str] = {
    "prompt_template: poem": "unknown prompt template 'poem'",
    "eval_prompt_template: ''": "unknown prompt template ''",
    "model: models/none": "model 'models/none' is no folder",
    "model: ''": "model '' is no folder",
    "model: EMPTY": "config.json: missing",
    "model: CONFIG": "is no folder",
    "freeze: [vison]": "freeze names 'vison'",
    "freeze: [vision, merger, llm]": "nothing is left to train",
    "data: sats": "not a .json, .jsonl or .parquet file, nor a known source",
    "data: ''": "known source",
    "data: none.jsonl": "none.jsonl",
    "data: sat=none.parquet": "none.parquet",
    "data: 'none-*.jsonl'": "none-*.jsonl: no file matches",
    "data: scenes=a.jsonl": "scenes is drawn and takes no file",
    "data: poems=a.jsonl": "'poems' in poems=a.jsonl is not a known source",
    "data: EMPTY.jsonl": "EMPTY.jsonl",
    "data_split: test2": "test2",
    "question_types: [colour]": "no question is of the types asked for; there are Count, Depth",
    "eval_data: cv_bnch": "unknown benchmark 'cv_bnch'",
    "eval_data: none.jsonl": "none.jsonl",
    "eval_data: cv_bench=EMPTY.jsonl": "EMPTY.jsonl",
    "eval_data: superclevr": "superclevr is not on the hub",
    "{eval_data: scenes, eval_image_folder: none}": "--image-folder",
    "image_folders: none": "image_folders: there is no folder none",
    "reward_funcs: accuracy": "reward 'accuracy': no such name",
    "reward_funcs: ''": "reward '': no such name",
    "reward_funcs: none.py:f": "there is no file",
    "reward_funcs: CONFIG:f": "no such name",
    "reward_funcs: BROKEN.py:f": "failed with SyntaxError",
    "reward_funcs: BROKEN.py": "no such name",
    "reward_funcs: OWN.py:absent": "no 'absent' in that file (its functions: scored)",
    "reward_funcs: OWN.py:NUMBER": "'NUMBER' is of type int, not a function",
    "reward_funcs: EXITS.py:f": "failed with SystemExit",
    "{sync_ref_model: true, beta: 0}": "sync_ref_model is true, but there is no reference model",
    "{sync_ref_model: true, method: sft}": "sync_ref_model is true, but there is no reference model",
    "mesh: {data: 3}": "mesh data 3, fsdp 1, tensor 1 needs 3 devices, but there",
    "mesh: {data: -1, fsdp: -1}": "only one axis can be -1",
    "attention: splash": "'splash' needs a TPU",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that some configs name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "EMPTY.jsonl").write_text("")
    (tmp_path / "CONFIG").write_text(GOOD)
    (tmp_path / "OWN.py").write_text("NUMBER = 1\ndef scored(completions, **columns):\n    return [0]\n")
    (tmp_path / "BROKEN.py").write_text("def f(:\n")
    (tmp_path / "EXITS.py").write_text("raise SystemExit(0)\n")
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the command ends with."""
    code = main(["train", *arguments, "--dry_run"])
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err[:-1].isprintable()
    assert len(shown.err) < 600
    assert not Path("RAN").exists()
    return shown.err


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_is_named_with_its_line(here, capsys, kind):
    content, words = FILES[kind]
    (here / "bad.yaml").write_bytes(content)
    line = refused(capsys, "bad.yaml")
    assert "bad.yaml: " in line
    assert words in line


@pytest.mark.parametrize(("name", "words"), [("none.yaml", "no such"), ("EMPTY", "folder"), ("", "folder")])
def test_what_is_no_file_is_named(here, capsys, name, words):
    assert words in refused(capsys, name)


@pytest.mark.parametrize("text", VALUES)
def test_a_bad_value_is_named_with_what_is_allowed(here, capsys, text):
    (here / "bad.yaml").write_text(f"{text}\n")
    line = refused(capsys, "bad.yaml")
    assert "bad.yaml: " in line
    assert VALUES[text] in line


@pytest.mark.parametrize("kind", OVERRIDES)
def test_a_bad_override_is_named(here, capsys, kind):
    arguments, words = OVERRIDES[kind]
    assert words in refused(capsys, "CONFIG", *arguments)


@pytest.mark.parametrize("text", LATER)
def test_what_only_a_look_at_the_files_shows_is_found_by_the_dry_run(here, capsys, text):
    (here / "bad.yaml").write_text(f"{text}\n")
    short = [f"--{line.replace(': ', '=')}" for line in GOOD.splitlines()]
    assert LATER[text] in refused(capsys, "bad.yaml", *short)


def fields_of(kind: type) -> list[str]:
    """The fields that have values of this type, alone or in a list."""
    return [name for name, hint in typing.get_type_hints(RunConfig).items() if kind in _leaves(hint)]


def _leaves(hint: object) -> set[object]:
    inner = typing.get_args(hint)
    return {hint} if not inner else set().union(*map(_leaves, inner))


WRONG = {
    int: [1.5, "1", True, float("nan"), float("inf"), {}, 10**400],
    float: ["1.0", True, float("nan"), float("inf"), -float("inf"), {}, 10**400, 1e300],
    bool: [1, 0.0, "true", [True], {}],
    str: [1, 1.5, True, {}, "a\nb", "a\0b", "x" * 5000, "\x9b31m"],
}


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_every_field_refuses_every_value_of_another_kind(kind):
    assert fields_of(kind)
    for name in fields_of(kind):
        for value in WRONG[kind]:
            with pytest.raises(ConfigError, match=f"^config: {name} is .*; it must be ") as caught:
                build_config({name: value})
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 400


def test_null_is_refused_where_a_field_has_no_such_value():
    for field in dataclasses.fields(RunConfig):
        if type(None) not in typing.get_args(typing.get_type_hints(RunConfig)[field.name]):
            with pytest.raises(ConfigError, match=field.name):
                build_config({field.name: None})


def test_every_number_has_a_range():
    """So that none can be NaN, or ask for more than there is."""
    for kind in (RunConfig, MeshConfig):
        plain, ranged = typing.get_type_hints(kind), typing.get_type_hints(kind, include_extras=True)
        for name, hint in plain.items():
            if _leaves(hint) & {int, float}:
                assert ranged[name] != hint, name


def test_a_mark_of_the_byte_order_is_no_mistake(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert load_config(tmp_path / "a.yaml").seed == 3


@pytest.mark.parametrize(
    ("output_dir", "words"),
    [
        ("CONFIG", "is no folder; choose another output_dir"),
        ("CONFIG/below", "is no folder; choose another output_dir"),
        ("/proc/vtzero", "nothing can be written in /proc"),
        (".", "export is there already, and no run"),
    ],
)
def test_a_folder_that_a_run_cannot_have_is_named_before_anything_is_done(here, output_dir, words):
    (here / "export").mkdir()
    with pytest.raises(ConfigError, match="output_dir") as caught:
        train(load_config("CONFIG", {"output_dir": output_dir}), quiet=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_as_a_process_of_its_own(here):
    (here / "rows.jsonl").write_text('{"something": 1}\n')
    _, error = vtzero("train", "CONFIG", "--eval_data", "rows.jsonl", "--dry_run", code=2)
    assert error.startswith("vtzero train: rows.jsonl: ")
    assert error.count("\n") == 1
    assert not (here / "runs").exists()
