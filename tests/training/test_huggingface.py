"""Hugging Face folders: round trips byte for byte, exports that transformers loads, and every refusal."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from fixtures.tiny_folder import make_tiny_folder
from flax import nnx
from models.torch_twin import collate, random_sample, torch_twin, twin_config, vtzero_twin
from safetensors.numpy import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from vtzero.models.qwen2_vl.config import parse_config
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.training.huggingface import hub_config, load_model, read_config, save_model

LM_HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
KILOBYTES = 1000


def from_transformers(folder: Path, dtype: torch.dtype = torch.float32, **options: object) -> Path:
    torch_twin(twin_config(), seed=0).to(dtype).save_pretrained(folder, **options)
    return folder


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """Rewrite model.safetensors after `change` has edited its dictionary."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def halve_matrices(tensors: dict[str, np.ndarray]) -> None:
    """bfloat16 matrices beside float32 norms; and one layer's matrix that stays float32."""
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and "layers.1.mlp" not in name:
            tensors[name] = tensor.astype(jnp.bfloat16)


def repeat_embeddings(tensors: dict[str, np.ndarray]) -> None:
    tensors[LM_HEAD] = tensors[EMBEDDINGS].copy()


SOURCES = {
    "transformers, one file": from_transformers,
    "transformers, sharded": lambda folder: from_transformers(folder, max_shard_size="30KB"),
    "transformers, bfloat16": lambda folder: from_transformers(folder, torch.bfloat16),
    "transformers, its own names": lambda folder: from_transformers(
        folder, max_shard_size="60KB", save_original_format=False
    ),
    "hub, untied": make_tiny_folder,
    "hub, tied": lambda folder: make_tiny_folder(folder, tie_word_embeddings=True),
    "hub, tied and repeated": lambda folder: change_tensors(
        make_tiny_folder(folder, tie_word_embeddings=True), repeat_embeddings
    ),
    "hub, mixed dtypes": lambda folder: change_tensors(make_tiny_folder(folder), halve_matrices),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def tensors_of(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Every tensor's dtype and bytes, from all files of a folder."""
    return {
        name: (str(tensor.dtype), tensor.tobytes())
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("parameter_dtype", [None, jnp.float32])
@pytest.mark.parametrize("kind", SOURCES)
def test_round_trip_is_byte_identical(tmp_path, kind, parameter_dtype):
    source = SOURCES[kind](tmp_path / "source")
    _, params = load_model(source, parameter_dtype=parameter_dtype)
    save_model(source, params, read_config(source), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


@pytest.mark.parametrize("kind", ["transformers, one file", "hub, tied"])
def test_one_file_is_split_when_it_passes_the_limit(tmp_path, kind):
    source, out = SOURCES[kind](tmp_path / "source"), tmp_path / "out"
    _, params = load_model(source)
    save_model(source, params, read_config(source), out, max_shard_size=40 * KILOBYTES)
    assert tensors_of(out) == tensors_of(source)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(raw) for _, raw in tensors_of(out).values())
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= 40 * KILOBYTES
        assert {name for name, place in index["weight_map"].items() if place == file.name} == tensors.keys()
    assert len(set(index["weight_map"].values())) > 2
    assert logits_of(out).equal(logits_of(source))


def logits_of(folder: Path) -> torch.Tensor:
    """Logits of transformers' own loading of the folder, for text and one image."""
    model, report = Qwen2VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    vision, image_token = model.config.vision_config, model.config.image_token_id
    generator = torch.Generator().manual_seed(0)
    patch_dim = 3 * vision.temporal_patch_size * vision.patch_size**2
    ids = torch.tensor([[5, 6, *[image_token] * 6, 7, 8]])
    with torch.no_grad():
        return model.eval()(
            input_ids=ids,
            mm_token_type_ids=(ids == image_token).int(),
            pixel_values=torch.randn((24, patch_dim), generator=generator),
            image_grid_thw=torch.tensor([[1, 4, 6]]),
        ).logits


@pytest.mark.parametrize("kind", ["transformers, its own names", "hub, tied and repeated", "hub, untied"])
def test_transformers_loads_the_export(tmp_path, kind):
    source = SOURCES[kind](tmp_path / "source")
    _, params = load_model(source)
    save_model(source, params, read_config(source), tmp_path / "out")
    logits = logits_of(tmp_path / "out")
    assert logits.std() > 0.1
    assert logits.equal(logits_of(source))


@pytest.mark.parametrize("tied", [False, True])
def test_changed_parameters_without_a_source(tmp_path, tied):
    """What transformers computes from an export of new weights is what vtzero computes from them."""
    config = parse_config(twin_config(tied=tied).to_dict())
    model = vtzero_twin(torch_twin(twin_config(tied=tied), seed=1))
    params = nnx.split(model)[1]
    save_model(None, params, config, tmp_path / "out", max_shard_size=50 * KILOBYTES)
    assert read_config(tmp_path / "out") == config
    twin = Qwen2VLForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    sample = random_sample(np.random.default_rng(2), [(24, 32)])
    with torch.no_grad():
        expected = twin(**sample.torch_inputs()).logits[0]
    hidden, _ = model.read_prompts(collate([sample]))
    np.testing.assert_allclose(model.logits(hidden)[0], expected, atol=1e-4)


def test_a_pure_dictionary_of_parameters_is_saved_like_a_state(tmp_path):
    source = make_tiny_folder(tmp_path / "source")
    _, params = load_model(source)
    save_model(source, nnx.to_pure_dict(params), read_config(source), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


def test_dtypes_of_parameters_and_of_compute(tmp_path):
    source = SOURCES["hub, mixed dtypes"](tmp_path / "source")
    graphdef, params = load_model(source, dtype=jnp.bfloat16, remat="dots", attention="cudnn")
    model = nnx.merge(graphdef, params)
    assert model.dtype == jnp.bfloat16
    assert model.model.remat == model.visual.remat == "dots"
    assert model.model.attention == model.visual.attention == "cudnn"
    assert model.model.embed_tokens.weight.dtype == jnp.bfloat16
    assert model.model.norm.weight.dtype == jnp.float32
    # Layer 0 is stored in bfloat16 and layer 1 in float32: float32 holds both exactly.
    assert model.model.layers.mlp.up_proj.weight.dtype == jnp.float32
    _, halves = load_model(source, parameter_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(halves)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("tied", [False, True])
def test_hub_config_is_read_back_equal(tied):
    config = parse_config(twin_config(heads=6, kv_heads=3, head_dim=16, layers=3, tied=tied).to_dict())
    assert parse_config(json.loads(json.dumps(hub_config(config)))) == config


def without_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def pickled(folder: Path) -> None:
    (without_weights(folder) / "pytorch_model.bin").write_bytes(b"\x80")


def sharded(folder: Path, change: Callable[[dict], object]) -> None:
    """Replace the folder by a sharded one whose index `change` has edited."""
    shutil.rmtree(folder)
    from_transformers(folder, max_shard_size="60KB")
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index)
    file.write_text(json.dumps(index))


def place(name: str, shard: str) -> Callable[[Path], None]:
    return lambda folder: sharded(folder, lambda index: index["weight_map"].update({name: shard}))


def edit(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], Path]:
    return lambda folder: change_tensors(folder, change)


def tie(folder: Path) -> None:
    """Ask for tied embeddings of a folder whose head is a matrix of its own."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))


def tie_and_shorten_head(folder: Path) -> None:
    tie(folder)
    change_tensors(folder, lambda tensors: tensors.update({LM_HEAD: tensors[LM_HEAD][:-1].copy()}))


NORM = "model.norm.weight"
BAD_FOLDERS = {
    "no folder": (shutil.rmtree, FileNotFoundError, "no such folder"),
    "no config": (lambda f: (f / "config.json").unlink(), FileNotFoundError, "config.json: missing"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json: not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ValueError, "no JSON object"),
    "other model": (
        lambda f: (f / "config.json").write_text('{"model_type": "llama"}'),
        ValueError,
        "model_type is 'llama'",
    ),
    "no weights": (without_weights, FileNotFoundError, "holds neither model.safetensors nor"),
    "pickled": (pickled, ValueError, "pytorch_model.bin is a pickle"),
    "cut short": (
        lambda f: os.truncate(f / "model.safetensors", 90_000),
        ValueError,
        r"model.safetensors: its header promises \d+ bytes, but it has 90000",
    ),
    "tensor missing": (
        edit(lambda tensors: tensors.pop("visual.merger.mlp.2.bias")),
        ValueError,
        "tensor 'visual.merger.mlp.2.bias' is missing",
    ),
    "head missing": (
        edit(lambda tensors: tensors.pop(LM_HEAD)),
        ValueError,
        f"tensor '{LM_HEAD}' is missing",
    ),
    "two missing": (
        edit(lambda tensors: (tensors.pop(NORM), tensors.pop(LM_HEAD))),
        ValueError,
        r"is missing \(and 1 more\)",
    ),
    "tensor surplus": (
        edit(lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.weight": tensors[NORM]})),
        ValueError,
        "tensor 'model.layers.2.mlp.up_proj.weight' is no parameter",
    ),
    "tensor stored twice": (
        edit(lambda tensors: tensors.update({"model.language_model.norm.weight": tensors[NORM]})),
        ValueError,
        "tensor 'model.norm.weight' is stored twice",
    ),
    "tensor misshapen": (
        edit(lambda tensors: tensors.update({NORM: tensors[NORM][:-1].copy()})),
        ValueError,
        r"tensor 'model.norm.weight' has shape \(31,\), but config.json means \(32,\)",
    ),
    "tensor of integers": (
        edit(lambda tensors: tensors.update({NORM: tensors[NORM].astype(np.int32)})),
        ValueError,
        "tensor 'model.norm.weight' is I32",
    ),
    "tied but different": (tie, ValueError, f"tensor '{LM_HEAD}' differs from the embeddings"),
    "tied but shorter": (tie_and_shorten_head, ValueError, f"tensor '{LM_HEAD}' has shape"),
    "index names a missing file": (place(NORM, "absent.safetensors"), ValueError, "'absent.safetensors'"),
    "index leaves the folder": (
        place(NORM, "../x.safetensors"),
        ValueError,
        "'../x.safetensors' is not the name",
    ),
    "index is absolute": (place(NORM, "/x.safetensors"), ValueError, "'/x.safetensors' is not the name"),
    "index names a number": (place(NORM, 3), ValueError, "3 is not the name"),
    "index names an absent tensor": (
        place("absent", "model-00001-of-00005.safetensors"),
        ValueError,
        "tensor 'absent' is missing",
    ),
    "index omits a tensor": (
        lambda folder: sharded(folder, lambda index: index["weight_map"].pop(NORM)),
        ValueError,
        "holds tensor 'model.norm.weight', which the index does not place there",
    ),
    "index without a map": (
        lambda folder: sharded(folder, lambda index: index.pop("weight_map")),
        ValueError,
        "'weight_map' is missing",
    ),
}


@pytest.mark.parametrize("trouble", BAD_FOLDERS)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, trouble):
    damage, error, message = BAD_FOLDERS[trouble]
    folder = make_tiny_folder(tmp_path / "source")
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = make_tiny_folder(tmp_path_factory.mktemp("tiny") / "source")
    return folder, load_model(folder)[1], read_config(folder)


def test_a_full_folder_is_not_overwritten(tiny, tmp_path):
    folder, params, config = tiny
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        save_model(folder, params, config, tmp_path)
    assert contents(tmp_path) == {"note.txt": b"mine"}


def test_an_empty_folder_and_the_remains_of_a_killed_export_are_replaced(tiny, tmp_path):
    folder, params, config = tiny
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.safetensors").write_bytes(b"half")
    save_model(folder, params, config, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_failed_export_leaves_nothing(tiny, tmp_path):
    folder, params, config = tiny
    tree = nnx.to_pure_dict(params)
    tree["model"]["norm"]["weight"] = jnp.ones(config.text.hidden_size)
    tree["model"]["norm"]["weight"].delete()
    with pytest.raises(RuntimeError, match="deleted"):
        save_model(folder, tree, config, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_another_network_is_refused(tiny, tmp_path):
    _, params, config = tiny
    other = make_tiny_folder(tmp_path / "other", num_key_value_heads=4)
    with pytest.raises(ValueError, match="another network"):
        save_model(other, params, config, tmp_path / "out")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ({}, "parameter 'model.norm.weight' is missing"),
        ({"weight": np.ones(31)}, r"parameter 'model.norm.weight' has shape \(31,\), not \(32,\)"),
        ({"weight": np.ones(32), "bias": np.ones(32)}, "parameter 'model.norm.bias' is not one"),
    ],
)
def test_parameters_of_another_network_are_refused(tiny, tmp_path, weight, message):
    folder, params, config = tiny
    tree = nnx.to_pure_dict(params)
    tree["model"]["norm"] = weight
    with pytest.raises(ValueError, match=message):
        save_model(folder, tree, config, tmp_path / "out")


def run_python(script: str, *arguments: object, **environment: str) -> str:
    """The output of a script in a fresh interpreter."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


SHARDED = """
import sys
import jax, numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from vtzero.training.huggingface import load_model, read_config, save_model

source, out = sys.argv[1:]
mesh = jax.make_mesh((2, 4), ("data", "fsdp"))
whole = load_model(source)[1]

def shard(leaf):
    last = max((axis for axis in range(leaf.ndim) if leaf.shape[axis] % 4 == 0), default=None)
    names = ("fsdp" if axis == last else None for axis in range(leaf.ndim))
    return NamedSharding(mesh, PartitionSpec(*names))

tree = jax.tree.map(shard, nnx.to_pure_dict(whole))
by_tree = load_model(source, sharding=tree)[1]

def by_path(path):
    node = tree
    for key in path:
        node = node[key]
    return node

by_function = load_model(source, sharding=by_path)[1]
for params in (by_tree, by_function):
    placed = nnx.to_pure_dict(params)
    assert jax.tree.all(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, placed, tree))
    jax.tree.map(np.testing.assert_array_equal, placed, nnx.to_pure_dict(whole))
specs = {str(sharding.spec) for sharding in jax.tree.leaves(tree)}
save_model(source, by_tree, read_config(source), out)
print(jax.device_count(), len(specs))
"""


def test_every_device_gets_its_own_slice(tmp_path):
    source = SOURCES["hub, mixed dtypes"](tmp_path / "source")
    flags = "--xla_force_host_platform_device_count=8"
    devices, specs = run_python(SHARDED, source, tmp_path / "out", XLA_FLAGS=flags).split()
    assert int(devices) == 8
    assert int(specs) >= 3
    assert contents(tmp_path / "out") == contents(source)


MEMORY = """
import sys
from pathlib import Path
import jax
from vtzero.training.huggingface import load_model, read_config, save_model

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def peak_over(now, action):
    # 5 resets the peak of the resident set to its present size.
    Path("/proc/self/clear_refs").write_text("5")
    result = action()
    return status("VmHWM:") - now, result

source, out = sys.argv[1:]
jax.block_until_ready(jax.numpy.zeros(8) + 1)
loading, (_, params) = peak_over(status("VmRSS:"), lambda: load_model(source))
config = read_config(source)
saving, _ = peak_over(status("VmRSS:"), lambda: save_model(source, params, config, out))
print(loading, saving)
"""


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)
def test_memory_peaks_near_the_size_of_the_checkpoint(tmp_path):
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "vocab_size": 9000}
    twin = twin_config(heads=8, kv_heads=2, head_dim=128, layers=4, tied=True)
    raw = twin.to_dict()
    raw["text_config"] |= sizes
    config = parse_config(raw)
    rng = np.random.default_rng(0)
    abstract = nnx.to_pure_dict(abstract_model(config)[1])
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), abstract)
    save_model(None, params, config, tmp_path / "source")
    size = (tmp_path / "source" / "model.safetensors").stat().st_size
    assert size > 250e6
    loading, saving = map(int, run_python(MEMORY, tmp_path / "source", tmp_path / "out").split())
    # Beyond the parameters themselves: on loading the piece being read, on saving one layer of a stack.
    assert 0.9 * size < loading < 1.15 * size
    assert saving < 0.5 * size
    assert (tmp_path / "out" / "model.safetensors").stat().st_size == size
