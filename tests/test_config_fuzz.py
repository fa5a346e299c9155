"""Whatever stands in a config or on the command line: a sound config that reads back equal, or one line."""

import dataclasses
import math
import typing
from pathlib import Path

from fixtures.fuzzing import fuzzed
from fixtures.refusals import refusal
from hypothesis import strategies as st

from vtzero.bench.command import parse_image_size, parse_lengths
from vtzero.config import RunConfig, build_config, dump_config, load_config, parse_overrides
from vtzero.evaluation.rescore import parse_choices
from vtzero.parallel.mesh import MeshSettings
from vtzero.plain_yaml import PlainYamlError, read, write
from vtzero.planning.chips import check_name

NAMES = [field.name for field in dataclasses.fields(RunConfig)]
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["1e5", "1:30", "010", "null", "yes", ".inf", "~", "=", "<<", "2020-01-01", "a: b", "a\0b", "\ud800"]
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 10), st.floats(), st.floats(0, 1), TEXTS
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
MARKS = [
    ": ",
    "\n",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!int ",
    ">\n",
    "? ",
    "'",
    "#",
    "\t",
    "%",
    "@",
    "---\n",
    "\x00",
    "\ufeff",
    "<<",
    "seed",
    "mesh",
    "data",
    "  ",
]
PIECES = st.sampled_from([*MARKS, '"', "|"]).map(str.encode) | st.just(b"\xff")


def check_sound(config: RunConfig, folder: Path) -> None:
    """A config that was accepted is one that a run can have, and that its folder keeps."""
    for name in NAMES:
        parts = getattr(config, name)
        for part in parts if isinstance(parts, tuple) else (parts,):
            assert not isinstance(part, float) or math.isfinite(part), name
            assert not isinstance(part, int) or abs(part) <= 2**40, name
            assert not isinstance(part, str) or "\0" not in part, name
    (folder / "kept.yaml").write_text(dump_config(config))
    if config.output_dir:
        assert load_config(folder / "kept.yaml") == config


@fuzzed(25, content=st.lists(PIECES | st.binary(max_size=4), max_size=25).map(b"".join))
def test_any_bytes_as_a_config(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    config, _ = refusal(lambda: load_config(tmp_path / "a.yaml"))
    if config is not None:
        check_sound(config, tmp_path)


@fuzzed(20, path=st.sampled_from(CONFIGS), place=st.floats(0, 1), piece=PIECES, cut=st.integers(0, 30))
def test_any_config_of_ours_with_a_piece_put_in_or_taken_out(tmp_path, path, place, piece, cut):
    raw = path.read_bytes()
    at = int(place * len(raw))
    (tmp_path / "a.yaml").write_bytes(raw[:at] + piece + raw[at + cut :])
    config, _ = refusal(lambda: load_config(tmp_path / "a.yaml"))
    if config is not None:
        check_sound(config, tmp_path)


@fuzzed(60, values=st.dictionaries(st.sampled_from(NAMES) | TEXTS, VALUES, max_size=4))
def test_any_values_for_any_keys(tmp_path, values):
    config, _ = refusal(lambda: build_config(values))
    if config is not None:
        check_sound(config, tmp_path)


@fuzzed(60, name=st.sampled_from(NAMES), value=VALUES)
def test_any_value_for_a_key(tmp_path, name, value):
    config, line = refusal(lambda: build_config({name: value}))
    assert name in line or config is not None
    if config is not None:
        check_sound(config, tmp_path)


@fuzzed(40, value=VALUES)
def test_what_is_written_is_read_back(value):
    try:
        back = read(write({"a": value}))
    except PlainYamlError:
        back = None  # nested too deep, or a character that YAML has not
    assert back is None or repr(back) == repr({"a": value})


FLAGS = st.sampled_from(NAMES).map("--{}".format) | TEXTS.map("--{}=1".format) | TEXTS.map("--mesh.{}".format)
ARGUMENTS = st.lists(TEXTS | FLAGS, max_size=5)


@fuzzed(60, arguments=ARGUMENTS)
def test_any_arguments_over_a_config(tmp_path, arguments):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\n")
    config, _ = refusal(lambda: load_config(path, parse_overrides(arguments)))
    if config is not None:
        check_sound(config, tmp_path)


@fuzzed(40, text=st.one_of(TEXTS, st.from_regex(r"[0-9x, ]{0,30}", fullmatch=True), st.integers().map(str)))
def test_any_sizes_lengths_choices_and_slices(text):
    size, _ = refusal(lambda: parse_image_size(text))
    assert size is None or all(1 <= side <= 2**15 for side in size)
    lengths, _ = refusal(lambda: parse_lengths(text))
    assert lengths is None or all(1 <= length <= 2**20 for length in lengths)
    choices, _ = refusal(lambda: parse_choices(text))
    assert choices is None or all(isinstance(choice, str) for choice in choices)
    refusal(lambda: check_name(text))


SIZES = st.one_of(st.integers(-2, 16), st.integers())


@fuzzed(40, data=SIZES, fsdp=SIZES, tensor=SIZES, devices=st.integers(1, 64))
def test_any_mesh_uses_every_device_once(data, fsdp, tensor, devices):
    sizes, _ = refusal(lambda: MeshSettings(data, fsdp, tensor).for_devices(devices))
    assert sizes is None or math.prod(sizes) == devices


def test_every_name_is_tried():
    assert len(NAMES) == len(typing.get_type_hints(RunConfig))
