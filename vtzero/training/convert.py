"""Orbax checkpoints <-> Hugging Face folders, for `vtzero export` and `vtzero import`."""

import shutil
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from vtzero.config import load_config
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.models.qwen2_vl.weights import abstract_model
from vtzero.parallel.mesh import MeshSettings, make_mesh
from vtzero.parallel.messages import ask_first, tell_all
from vtzero.parallel.processes import is_first
from vtzero.parallel.sharding import shapes_at, shard_params
from vtzero.training.checkpoints import Checkpoints
from vtzero.training.huggingface import COMPANIONS, load_model, read_config, save_model
from vtzero.training.setup import starting_folder
from vtzero.training.state import split_model

SOURCE = "source"
COPIED = (*COMPANIONS, "README.md", "LICENSE")
"""What goes along: of files that nobody knows, none, and so no code."""


def export_run(run_folder: Path, out: Path, step: int | None = None) -> dict[str, Any]:
    """Write the parameters of a run's checkpoint, or of an imported model, as a Hugging Face folder.

    All devices share the parameters, of all processes where there are several; each must call this.
    Raises FileNotFoundError when the folder holds neither, FileExistsError when `out` holds files.
    """
    _check_empty(out)
    checkpoints = Checkpoints(run_folder / "checkpoints", keep=None)
    chosen = ask_first(checkpoints.latest_step) if step is None else step
    if chosen is None:
        raise FileNotFoundError(f"{run_folder}: no finished checkpoint in {run_folder / 'checkpoints'}")
    checkpoints.check(chosen)
    if (run_folder / SOURCE).is_dir():
        _export_imported(checkpoints, chosen, run_folder / SOURCE, out)
    else:
        _export_trained(checkpoints, chosen, run_folder, out)
    return {"step": chosen, "folder": str(out)}


def import_folder(folder: Path, out: Path) -> dict[str, Any]:
    """Read a Hugging Face folder into an Orbax checkpoint at step 0; its other files go along in source/.

    All devices share the parameters, of all processes where there are several; each must call this.
    Raises FileExistsError when `out` holds files.
    """
    config = read_config(folder)
    _check_empty(out)
    _, params = load_model(folder, sharding=_spread(config))
    if is_first():
        (out / SOURCE).mkdir(parents=True)
        for name in COPIED:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / SOURCE / name)
    leaves = jax.tree.leaves(params)
    checkpoints = Checkpoints(out / "checkpoints", keep=None)
    checkpoints.save(0, params, {"step": 0, "dtypes": [str(leaf.dtype) for leaf in leaves]})
    checkpoints.close()
    count = sum(leaf.size for leaf in leaves)
    return {"parameters": count, "layers": config.text.num_hidden_layers, "folder": str(out)}


def _check_empty(out: Path) -> None:
    """All processes look before the first one writes."""
    full = tell_all(out.exists() and any(out.iterdir()))
    if any(full):
        raise FileExistsError(f"{out}: exists and is not empty; choose another folder or remove it")


def _spread(config: Qwen2VLConfig) -> nnx.State:
    """Where each parameter lies when all devices share it."""
    return shard_params(abstract_model(config)[1], make_mesh(MeshSettings(data=1, fsdp=-1)))


def _export_trained(checkpoints: Checkpoints, step: int, run_folder: Path, out: Path) -> None:
    """Reads parameters alone: the optimizer's state is twice their size, and is not asked for."""
    config = load_config(run_folder / "config.yaml")
    source = starting_folder(config, run_folder)
    model_config = read_config(source)
    graphdef, shapes = abstract_model(model_config)
    parts, trainable, frozen = split_model(graphdef, shapes_at(shapes, _spread(model_config)), config.freeze)
    stored = checkpoints.restore(step, {"trainable": trainable, "frozen": frozen}, partial=True)
    params = nnx.state(parts.merge(stored["trainable"], stored["frozen"]), nnx.Param)
    save_model(source, params, model_config, out)


def _export_imported(checkpoints: Checkpoints, step: int, source: Path, out: Path) -> None:
    config = read_config(source)
    leaves, structure = jax.tree.flatten(abstract_model(config)[1])
    dtypes = checkpoints.read_extra(step)["dtypes"]
    like = [jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)]
    places = shapes_at(jax.tree.unflatten(structure, like), _spread(config))
    save_model(None, checkpoints.restore(step, places), config, out)
    if is_first():
        shutil.copytree(source, out, dirs_exist_ok=True)
