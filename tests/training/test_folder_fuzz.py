"""Whatever is done to the files of a model, a checkpoint or a run: found, or without consequence."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.fuzzing import fuzzed
from fixtures.refusals import refusal
from fixtures.tiny_folder import make_tiny_folder
from hypothesis import strategies as st

from vtzero.data.processor import Processor
from vtzero.data.processor_files import read_image_processor, read_stop_ids
from vtzero.evaluation.predictions import read_predictions
from vtzero.evaluation.results import ItemResult, ResultFiles
from vtzero.models.qwen2_vl.config import parse_config
from vtzero.models.qwen2_vl.weights import tensor_shapes
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.huggingface_folder import INDEX, checkpoint_tensors, read_config
from vtzero.training.metrics import MetricsLog, RejectedLog, read_metrics
from vtzero.training.tensor_files import read_header

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-2, 70), st.floats(), st.text(max_size=8)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
PLACE = st.floats(0, 1, exclude_max=True)
CHANGES = st.sampled_from(["flip", "cut", "longer", "zeros", "remove", "rename", "add", "swap"])
LINES = st.lists(st.binary(max_size=12) | JSON.map(lambda value: json.dumps(value).encode()), max_size=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("model") / "model", num_hidden_layers=1)


def damaged(raw: bytes, change: str, place: float, bit: int) -> bytes:
    at = int(place * len(raw))
    if change == "flip" and raw:
        return raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
    if change == "zeros":
        return raw[:at] + bytes(len(raw) - at)
    return raw[:at] if change == "cut" else raw + bytes([bit])


# The entries of a header: any values, and those of a sound one with something put in their place.
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I64"]) | JSON,
        "shape": st.lists(st.integers(-1, 5) | SCALARS, max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-4, 64) | SCALARS, max_size=3) | JSON,
    },
)


@fuzzed(
    80,
    header=st.dictionaries(st.text(max_size=3), ENTRIES | JSON, max_size=3) | JSON,
    room=st.integers(0, 80),
)
def test_any_header_of_weights(tmp_path, header, room):
    text = json.dumps(header).encode()
    check_header(tmp_path, len(text).to_bytes(8, "little") + text + bytes(room))


SLIPS = st.sampled_from([0, 0, 0, 4, -4])
TENSORS = st.lists(
    st.tuples(st.sampled_from(["F32", "BF16"]), st.lists(st.integers(0, 3), max_size=2), SLIPS), max_size=4
)


@fuzzed(60, tensors=TENSORS, room=SLIPS)
def test_headers_that_are_nearly_sound(tmp_path, tensors, room):
    """Tensors one after the other, some of them moved a little."""
    entries, end = {}, 0
    for number, (dtype, shape, slip) in enumerate(tensors):
        begin, end = end, end + math.prod(shape) * (4 if dtype == "F32" else 2)
        offsets = [begin + slip, end + slip]
        entries[str(number)] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(entries).encode()
    check_header(tmp_path, len(text).to_bytes(8, "little") + text + bytes(max(end + room, 0)))


@fuzzed(40, raw=st.binary(max_size=60), length=st.none() | st.integers(0, 2**64 - 1))
def test_any_bytes_as_weights(tmp_path, raw, length):
    check_header(tmp_path, raw if length is None else length.to_bytes(8, "little") + raw)


def check_header(folder: Path, raw: bytes) -> None:
    """Of what is accepted, every byte after the header belongs to one tensor."""
    (folder / "x.safetensors").write_bytes(raw)
    tensors, line = refusal(lambda: read_header(folder / "x.safetensors"))
    assert tensors is not None or "x.safetensors: " in line
    if tensors is not None:
        covered = 8 + int.from_bytes(raw[:8], "little")
        for tensor in tensors.values():
            assert tensor.offset == covered
            covered += tensor.nbytes
        assert covered == len(raw)


@fuzzed(30, change=CHANGES, place=PLACE, bit=st.integers(0, 7))
def test_weights_with_a_damaged_header(model, tmp_path, change, place, bit):
    raw = (model / "model.safetensors").read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    shutil.copyfile(model / "config.json", tmp_path / "config.json")
    (tmp_path / "model.safetensors").write_bytes(damaged(raw[:length], change, place, bit) + raw[length:])
    refusal(lambda: checkpoint_tensors(tmp_path, read_config(tmp_path)))


@fuzzed(
    40,
    weight_map=st.dictionaries(st.text(max_size=5), st.text(max_size=9) | JSON, max_size=3) | JSON,
    more=st.dictionaries(st.text(max_size=5), JSON, max_size=2),
)
def test_any_index_names_nothing_outside(model, tmp_path, weight_map, more):
    (tmp_path / INDEX).write_text(json.dumps({**more, "weight_map": weight_map}))
    tensors, _ = refusal(lambda: checkpoint_tensors(tmp_path, read_config(model)))
    assert tensors is None


@fuzzed(80, changes=st.dictionaries(st.integers(0, 60), JSON, min_size=1, max_size=3), inner=st.booleans())
def test_any_config_of_a_model(model, changes, inner):
    """What is believed has sizes of which shapes can be made at once."""
    raw: dict[str, Any] = json.loads((model / "config.json").read_text())
    part = raw["vision_config"] if inner else raw
    names = list(part)
    for number, value in changes.items():
        part[names[number % len(names)]] = value
    config, line = refusal(lambda: parse_config(raw))
    assert config is not None or line.startswith("config.json: ")
    if config is not None:
        assert all(math.prod(shape) > 0 for shape in tensor_shapes(config).values())


@fuzzed(60, name=st.integers(0, 30), value=JSON, end=JSON)
def test_any_settings_of_images_and_ends(model, tmp_path, name, value, end):
    settings = json.loads((model / "preprocessor_config.json").read_text()) | {"size": None, "resample": 3}
    settings[list(settings)[name % len(settings)]] = value
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    images, _ = refusal(lambda: read_image_processor(tmp_path, None, None))
    assert images is None or 0 < images.size["shortest_edge"] <= images.size["longest_edge"]
    ids, _ = refusal(lambda: read_stop_ids(tmp_path))
    assert ids is None or all(number >= 0 for number in ids)


@fuzzed(12, change=st.sampled_from(["flip", "cut", "zeros"]), place=PLACE, bit=st.integers(0, 7))
def test_a_damaged_tokenizer(model, tmp_path, change, place, bit):
    folder = shutil.copytree(model, tmp_path / "model", dirs_exist_ok=True)
    raw = (model / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(damaged(raw, change, place, bit))
    processor, line = refusal(lambda: Processor.from_folder(folder))
    assert processor is not None or str(folder) in line


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of a small state."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder, keep=None)
    for step in (1, 2):
        checkpoints.save(step, {"a": jnp.arange(300.0) + step, "b": jnp.float32(step)}, {"step": step})
    checkpoints.close()
    return folder


@fuzzed(30, number=PLACE, change=CHANGES, place=PLACE, bit=st.integers(0, 7))
def test_any_change_of_a_checkpoint_is_found_and_the_one_before_is_used(
    saved, tmp_path, number, change, place, bit
):
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    files = sorted(path for path in (folder / "2").rglob("*") if path.is_file())
    same = change_file(files, int(number * len(files)), change, place, bit)
    checkpoints = Checkpoints(folder, keep=None)
    latest, aside = checkpoints.recover()
    assert (latest, len(aside)) == ((2, 0) if same else (1, 1))
    like = {"a": jnp.zeros(300), "b": jnp.float32(0)}
    restored = checkpoints.restore(latest, like)
    np.testing.assert_array_equal(restored["a"], np.arange(300.0) + latest)
    checkpoints.close()


def change_file(files: list[Path], number: int, change: str, place: float, bit: int) -> bool:
    """Do it; whether the folder's files are the same as before."""
    path, other = files[number], files[number - 1]
    raw = path.read_bytes()
    if change == "remove":
        path.unlink()
    elif change == "rename":
        path.rename(path.with_name(path.name + "x"))
    elif change == "add":
        path.with_name("new").write_bytes(raw)
    elif change == "swap":
        path.write_bytes(other.read_bytes())
        other.write_bytes(raw)
        return path.read_bytes() == raw
    else:
        path.write_bytes(damaged(raw, change, place, bit))
        return path.read_bytes() == raw
    return False


@fuzzed(40, lines=LINES, end=st.sampled_from([b"", b"\n"]), step=st.none() | st.integers(0, 5))
def test_any_lines_after_those_of_a_run(tmp_path, lines, end, step):
    """The lines of a run are kept up to the step, or the one that is no such line is named."""
    sound = b"".join(b'{"step": %d, "loss": 0.5}\n' % number for number in range(3))
    for name, log in (("metrics.jsonl", MetricsLog), ("rejected.jsonl", RejectedLog)):
        (tmp_path / name).write_bytes(sound + b"\n".join(lines) + end)
        options = {"tensorboard": False} if log is MetricsLog else {}
        opened, line = refusal(lambda log=log, options=options: log(tmp_path, resume_step=step, **options))
        assert opened is not None or f"{name}:" in line
        if opened is not None:
            opened.close()
            kept = (tmp_path / name).read_bytes()
            assert kept.startswith(sound if step is None else b"".join(sound.splitlines(True)[: step + 1]))
    refusal(lambda: read_metrics(tmp_path))


ITEM = ItemResult("t", "1", 0, "q", "p", ("a", "b"), "a", "o", True, True, 3, True)


CHANGED = st.tuples(st.sampled_from(sorted(asdict(ITEM))), JSON).map(
    lambda change: json.dumps({**asdict(ITEM), change[0]: change[1]}).encode()
)


@fuzzed(
    40,
    lines=LINES | st.lists(CHANGED, max_size=2),
    end=st.sampled_from([b"", b"\n"]),
    settings=JSON,
    finished=st.booleans(),
)
def test_any_lines_after_those_of_an_evaluation(tmp_path, lines, end, settings, finished):
    shutil.rmtree(tmp_path / "eval", ignore_errors=True)
    files = ResultFiles(tmp_path, "b", 0, {"seed": 1})
    files.append([ITEM])
    path = tmp_path / "eval" / "b-0.jsonl"
    path.write_bytes(path.read_bytes() + b"\n".join(lines) + end)
    done, line = refusal(files.done)
    assert "b-0.jsonl:" in line if done is None else done[0] == ITEM
    held = path.with_suffix(".json" if finished else ".settings.json")
    held.write_text(json.dumps(settings))
    again, line = refusal(lambda: ResultFiles(tmp_path, "b", 0, {"seed": 1}))
    assert again is None
    assert str(held) in line


KEYS = "id choices answer output task idx prediction full_prediction question ground_truth model_output"
ROWS = st.lists(st.dictionaries(st.sampled_from(KEYS.split()), JSON, max_size=9), max_size=3)


@fuzzed(60, rows=ROWS | JSON, raw=st.none() | st.binary(max_size=30))
def test_any_file_of_outputs(tmp_path, rows, raw):
    path = tmp_path / "outputs.jsonl"
    path.write_bytes(json.dumps(rows).encode() if raw is None else raw)
    refusal(lambda: read_predictions(path))
