"""Bad Hugging Face folders, each through the command: exit code 2, and one line that names the file.

`vtzero import` reads config and weights, `vtzero sample` the tokenizer and the image settings before them.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.tiny_folder import make_tiny_folder
from safetensors.numpy import load_file, save_file

from vtzero.cli import main
from vtzero.training.huggingface import load_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "model")


def change(file: str, **values: Any) -> Damage:
    """Set keys of a JSON file; a key that is None is taken away."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | values
        left = {name: value for name, value in content.items() if value is not None}
        (folder / file).write_text(json.dumps(left))

    return damage


def vision(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        section = json.loads((folder / "config.json").read_text())["vision_config"]
        change("config.json", vision_config=section | values)(folder)

    return damage


def write(file: str, content: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(content)


def remove(*files: str) -> Damage:
    return lambda folder: [(folder / file).unlink() for file in files]


def both(*damages: Damage) -> Damage:
    return lambda folder: [damage(folder) for damage in damages]


def header(edit: Callable[[dict[str, Any]], object]) -> Damage:
    """Edit the header of the weights; their bytes stay."""

    def damage(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(raw[:8], "little")
        entries = json.loads(raw[8 : 8 + length])
        edit(entries)
        text = json.dumps(entries).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

    return damage


def entry(**values: Any) -> Damage:
    return header(lambda entries: entries[NORM].update(values))


def shift(by: int, length: int = 0) -> Damage:
    """Move where a tensor begins and ends."""

    def edit(entries: dict[str, Any]) -> None:
        begin, end = entries[NORM]["data_offsets"]
        entries[NORM]["data_offsets"] = [begin + by, end + by + length]

    return header(edit)


def tensors(edit: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = load_file(folder / WEIGHTS)
        edit(content)
        save_file(content, folder / WEIGHTS)

    return damage


def number(value: float, kind: Any = np.float32, name: str = NORM) -> Damage:
    """One number of a tensor, all of whose dtype is `kind`."""

    def edit(content: dict[str, np.ndarray]) -> None:
        content[name] = content[name].astype(kind)
        content[name].flat[-1] = value

    return tensors(edit)


def sharded(**weight_map: Any) -> Damage:
    """Two shards with an index, in which some tensors are placed otherwise."""

    def damage(folder: Path) -> None:
        content = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        shards = {"a.safetensors": [NORM], "b.safetensors": [name for name in content if name != NORM]}
        for file, names in shards.items():
            save_file({name: content[name] for name in names}, folder / file)
        places = {name: file for file, names in shards.items() for name in names}
        places |= {NORM if name == "norm" else name: place for name, place in weight_map.items()}
        (folder / INDEX).write_text(json.dumps({"weight_map": places}))

    return damage


def placed(file: Any) -> Damage:
    return sharded(norm=file)


def linked(folder: Path) -> None:
    """A pipe under a shard's name: whoever opened it would wait for ever."""
    sharded()(folder)
    (folder / "a.safetensors").unlink()
    os.mkfifo(folder / "a.safetensors")


IMPORTED: dict[str, tuple[Damage, str]] = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no config": (remove("config.json"), "config.json: missing"),
    "config empty": (write("config.json", b""), "config.json: not JSON"),
    "config cut": (write("config.json", b'{"model_type": "qwen2_vl", '), "config.json: not JSON"),
    "config binary": (write("config.json", b"\x80\x04\x95"), "config.json: not JSON"),
    "config a list": (write("config.json", b"[1]"), "config.json: holds no JSON object"),
    "config nested deep": (
        write("config.json", b'{"a":' * 200_000),
        "not JSON (nested too deep)",
    ),
    "config with a key twice": (write("config.json", b'{"a": 1, "a": 2}'), "'a' is there twice"),
    "another architecture": (change("config.json", model_type="llama"), "model_type is 'llama'"),
    "no architecture": (change("config.json", model_type=None), "model_type is None"),
    "a newer model": (change("config.json", model_type="qwen2_5_vl"), "only 'qwen2_vl' is supported"),
    "no width": (change("config.json", hidden_size=None), "'hidden_size' is missing"),
    "no layers": (change("config.json", num_hidden_layers=0), "num_hidden_layers is 0"),
    "negative layers": (change("config.json", num_hidden_layers=-2), "num_hidden_layers is -2"),
    "a billion layers": (change("config.json", num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "half a layer": (change("config.json", num_hidden_layers=1.5), "num_hidden_layers is 1.5"),
    "layers in words": (change("config.json", num_hidden_layers="two"), "num_hidden_layers is 'two'"),
    "layers true": (change("config.json", num_hidden_layers=True), "num_hidden_layers is True"),
    "terabytes": (change("config.json", vocab_size=10**12), "vocab_size is 1000000000000"),
    "wide, but believed": (change("config.json", intermediate_size=2**20), "config.json means (32, 1048576)"),
    "no heads": (change("config.json", num_attention_heads=0), "num_attention_heads is 0"),
    "heads that do not divide": (
        change("config.json", num_attention_heads=7, num_key_value_heads=7),
        "must add up to half of 4",
    ),
    "key heads that do not divide": (change("config.json", num_key_value_heads=3), "num_key_value_heads"),
    "an epsilon of nothing": (change("config.json", rms_norm_eps=0), "rms_norm_eps is 0"),
    "an epsilon that is NaN": (change("config.json", rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "rope no object": (change("config.json", rope_scaling=[1]), "rope_scaling is [1]; it must be an object"),
    "rope of two sections": (
        change("config.json", rope_scaling={"type": "mrope", "mrope_section": [2, 2]}),
        "mrope_section is [2, 2]",
    ),
    "rope of another sum": (
        change("config.json", rope_scaling={"type": "mrope", "mrope_section": [9, 9, 9]}),
        "must add up",
    ),
    "rope of another kind": (change("config.json", rope_scaling={"type": "yarn"}), "rope type 'yarn'"),
    "a vision part that is text": (change("config.json", vision_config="big"), "vision_config is 'big'"),
    "vision of no depth": (vision(depth=0), "depth is 0"),
    "vision heads that do not divide": (vision(num_heads=3), "vision embed_dim"),
    "vision of another width": (vision(hidden_size=48), "vision hidden_size 48 differs"),
    "vision with patches of 0": (vision(patch_size=0), "patch_size is 0"),
    "a token beyond the vocabulary": (
        change("config.json", image_token_id=10**6),
        "vision token 1000000",
    ),
    "a dtype of its own": (change("config.json", torch_dtype="int4"), "dtype is 'int4'"),
    "no weights": (remove(WEIGHTS), f"holds neither {WEIGHTS}"),
    "pickled weights": (
        both(remove(WEIGHTS), write("pytorch_model.bin", b"\x80\x02}q\x00.")),
        "pytorch_model.bin is a pickle, which can run code and is not read; save it as safetensors",
    ),
    "a folder for weights": (both(remove(WEIGHTS), lambda f: (f / WEIGHTS).mkdir()), "holds neither"),
    "a pipe for weights": (both(remove(WEIGHTS), lambda f: os.mkfifo(f / WEIGHTS)), "holds neither"),
    "nothing in the file": (write(WEIGHTS, b""), "cut short or not a safetensors file (0 bytes)"),
    "a Git LFS pointer": (write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "cut short"),
    "cut short": (lambda f: os.truncate(f / WEIGHTS, 90_000), "promises"),
    "a byte too many": (lambda f: (f / WEIGHTS).open("ab").write(b"\0"), "promises"),
    "a header of 4 exabytes": (write(WEIGHTS, (2**62).to_bytes(8, "little") + b"{}"), "cut short or not"),
    "a header that is no JSON": (write(WEIGHTS, b"\x04\0\0\0\0\0\0\0{{}}"), "its header: not JSON"),
    "a header that is a list": (write(WEIGHTS, b"\x02\0\0\0\0\0\0\0[]"), "holds no JSON object"),
    "a header nested deep": (
        write(WEIGHTS, (600_000).to_bytes(8, "little") + b'{"a":' * 120_000),
        "nested too deep",
    ),
    "a tensor twice in the header": (
        write(WEIGHTS, (14).to_bytes(8, "little") + b'{"x":1,"x":2} '),
        "the key 'x' is there twice",
    ),
    "an entry that is no object": (header(lambda e: e.update({NORM: 3})), f"malformed at '{NORM}'"),
    "an unknown dtype": (entry(dtype="F8_E5M2"), "is F8_E5M2, but only F32, BF16, F16"),
    "a dtype that is a list": (entry(dtype=["F32"]), "malformed"),
    "a negative shape": (entry(shape=[-4, -8]), "malformed"),
    "a shape in words": (entry(shape="32"), "malformed"),
    "a shape of fractions": (entry(shape=[32.0]), "malformed"),
    "a larger shape": (entry(shape=[2**62]), "its shape needs"),
    "offsets that overlap": (shift(-4), "is the next; fetch it again"),
    "offsets with a hole": (shift(4), "is the next; fetch it again"),
    "offsets beyond the end": (shift(10**15), "is the next; fetch it again"),
    "offsets below 0": (entry(data_offsets=[-128, 0]), "malformed"),
    "offsets turned round": (entry(data_offsets=[128, 0]), "has -128 bytes"),
    "three offsets": (entry(data_offsets=[0, 128, 256]), "malformed"),
    "a missing tensor": (tensors(lambda t: t.pop(NORM)), f"tensor '{NORM}' is missing"),
    "an extra tensor": (tensors(lambda t: t.update(extra=t[NORM])), "tensor 'extra' is no parameter"),
    "a tensor under two names": (
        tensors(lambda t: t.update({"model.language_model.norm.weight": t[NORM]})),
        "is stored twice",
    ),
    "a wrong shape": (tensors(lambda t: t.update({NORM: t[NORM][:-1].copy()})), "has shape (31,)"),
    "a transposed matrix": (
        tensors(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].T.copy()})),
        "'lm_head.weight' has shape",
    ),
    "integers": (tensors(lambda t: t.update({NORM: t[NORM].astype(np.int64)})), "is I64, but only"),
    "a NaN": (number(float("nan")), f"tensor '{NORM}' holds NaN or infinity"),
    "a NaN in bfloat16": (number(float("nan"), jnp.bfloat16), f"tensor '{NORM}' holds NaN or infinity"),
    "an infinity in float16": (number(-float("inf"), np.float16), f"tensor '{NORM}' holds NaN"),
    "an infinity in a layer": (
        number(float("inf"), name="model.layers.1.mlp.up_proj.weight"),
        "'model.layers.1.mlp.up_proj.weight' holds NaN",
    ),
    "index no JSON": (both(sharded(), write(INDEX, b"{")), f"{INDEX}: not JSON"),
    "index without a map": (both(sharded(), write(INDEX, b"{}")), "the key 'weight_map' is missing"),
    "index with a list": (both(sharded(), write(INDEX, b'{"weight_map": []}')), "or no object"),
    "index that names a number": (placed(3), "3 is not the name of a file in the folder"),
    "index that names null": (placed(None), "None is not the name"),
    "index that names a list": (placed(["a.safetensors"]), "is not the name"),
    "index that leaves the folder": (placed("../a.safetensors"), "'../a.safetensors' is not the name"),
    "index with an absolute path": (placed("/etc/passwd"), "'/etc/passwd' is not the name"),
    "index that names a subfolder": (placed("sub/a.safetensors"), "is not the name"),
    "index that names the folder": (placed("."), "'.' is not the name"),
    "index that names nothing": (placed(""), "'' is not the name"),
    "index that names another file": (placed("config.json"), "'config.json' is not the name"),
    "index with a NUL": (placed("a\0.safetensors"), "is not the name"),
    "index with an escape sequence": (placed("\x1b[2Ja.safetensors"), "is not the name"),
    "index that names a missing file": (placed("c.safetensors"), "'c.safetensors' that it names is missing"),
    "index that misplaces a tensor": (placed("b.safetensors"), "though the index places it there"),
    "index with a tensor of no file": (sharded(more="a.safetensors"), "tensor 'more' is missing"),
    "a shard missing": (both(sharded(), remove("b.safetensors")), "'b.safetensors' that it names is missing"),
    "a shard cut": (both(sharded(), lambda f: os.truncate(f / "b.safetensors", 20)), "b.safetensors: cut"),
    "a shard that is a pipe": (linked, "'a.safetensors' that it names is missing"),
    "a tensor in two shards": (
        both(sharded(), lambda f: shutil.copy(f / "b.safetensors", f / "a.safetensors")),
        "which the index does not place there",
    ),
}

SAMPLED: dict[str, tuple[Damage, str]] = {
    "no tokenizer": (remove("tokenizer.json"), "neither tokenizer.json nor vocab.json is there"),
    "tokenizer empty": (write("tokenizer.json", b""), "tokenizer.json: not JSON"),
    "tokenizer cut": (lambda f: os.truncate(f / "tokenizer.json", 3000), "tokenizer.json: not JSON"),
    "tokenizer of nothing": (write("tokenizer.json", b"{}"), "its tokenizer files cannot be read"),
    "tokenizer of another kind": (change("tokenizer.json", model={"type": "Magic"}), "cannot be read"),
    "tokenizer settings no JSON": (
        write("tokenizer_config.json", b"{'a'}"),
        "_config.json: not JSON",
    ),
    "tokenizer settings a list": (write("tokenizer_config.json", b"[]"), "holds no JSON object"),
    "vision tokens elsewhere": (change("config.json", image_token_id=7), "but config.json as 7"),
    "a vocabulary that is too large": (change("config.json", vocab_size=413), "vocab_size"),
    "image settings missing": (remove("preprocessor_config.json"), "preprocessor_config.json: missing"),
    "image settings no JSON": (write("preprocessor_config.json", b"\xff"), "preprocessor_config.json: not"),
    "patches of another size": (change("preprocessor_config.json", patch_size=16), "patch_size is 16 in"),
    "patches of 0": (change("preprocessor_config.json", patch_size=0), "patch_size is '0'"),
    "a merge in words": (change("preprocessor_config.json", merge_size="two"), "merge_size is 'two'"),
    "a mean of two": (change("preprocessor_config.json", image_mean=[0, 0]), "image_mean is '[0, 0]'"),
    "a deviation of 0": (change("preprocessor_config.json", image_std=[1, 0, 1]), "image_std is"),
    "a resampling of 9": (change("preprocessor_config.json", resample=9), "resample is '9'"),
    "a scale of infinity": (
        change("preprocessor_config.json", rescale_factor=float("inf")),
        "rescale_factor is 'inf'",
    ),
    "pixels in words": (change("preprocessor_config.json", min_pixels="few"), "min_pixels is 'few'"),
    "pixels below 0": (change("preprocessor_config.json", min_pixels=-1), "min_pixels is '-1'"),
    "pixels without end": (change("preprocessor_config.json", max_pixels=10**15), "max_pixels is"),
    "a size that is a number": (change("preprocessor_config.json", size=3), "size is '3'"),
    "generation no JSON": (write("generation_config.json", b"{"), "generation_config.json: not JSON"),
    "an end in words": (change("generation_config.json", eos_token_id="<end>"), "eos_token_id has '<end>'"),
    "an end below 0": (change("generation_config.json", eos_token_id=[-1]), "eos_token_id has '-1'"),
    "an end beyond the vocabulary": (
        change("generation_config.json", eos_token_id=10**6),
        "ends a completion",
    ),
}


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The one line that the command ends with."""
    code = main([*map(str, arguments)])
    shown = capsys.readouterr()
    assert code == 2, shown
    assert shown.err.count("\n") == 1
    assert shown.err[:-1].isprintable()
    assert str(folder) in shown.err
    assert len(shown.err) < 900
    return shown.err


@pytest.mark.parametrize("kind", IMPORTED)
def test_config_and_weights_that_cannot_be_imported(model, tmp_path, capsys, kind):
    damage, words = IMPORTED[kind]
    damage(model)
    assert words in refused(capsys, model, "import", model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", SAMPLED)
def test_tokenizers_and_settings_that_cannot_be_used(model, capsys, kind):
    damage, words = SAMPLED[kind]
    damage(model)
    assert words in refused(capsys, model, "sample", "--model", model, "Where?")


def test_links_are_followed_since_the_hubs_own_cache_is_made_of_them(model, tmp_path):
    sharded()(model)
    (tmp_path / "blobs").mkdir()
    for file in list(model.iterdir()):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    load_model(model)
