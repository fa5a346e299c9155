"""Compiled programs of a run: kept on disk between runs, made before the first step, counted afterwards."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_FROM_CACHE = "/jax/compilation_cache/cache_hits"


def keep_programs() -> Path | None:
    """Keep compiled programs on disk, by default in ~/.cache/vtzero/programs; returns the folder.

    A program that took a second or more to compile is found again when code, shapes, versions and device are
    the same. Nothing is ever deleted there. JAX's own variables decide
    otherwise: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false keeps none.
    """
    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache:
        return None
    if settings.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        settings.update("jax_compilation_cache_dir", str(Path(home) / "vtzero" / "programs"))
    return Path(settings.jax_compilation_cache_dir)


class Compilations:
    """Counts what this process compiles, the programs read from disk among them."""

    def __init__(self) -> None:
        self.count, self.from_disk, self.seconds = 0, 0, 0.0
        self._taken = (0, 0.0)
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        jax.monitoring.register_event_listener(self._found)

    def _compiled(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            self.count += 1
            self.seconds += duration_secs

    def _found(self, event: str, **_: Any) -> None:
        if event == _FROM_CACHE:
            self.from_disk += 1

    def metrics(self) -> dict[str, float]:
        """Programs and seconds since the last call."""
        (count, seconds), self._taken = self._taken, (self.count, self.seconds)
        return {"compile/count": float(self.count - count), "compile/seconds": self.seconds - seconds}


COMPILATIONS = Compilations()
"""One for the process: JAX's listeners cannot be taken back."""


def compile_all(
    programs: Mapping[str, Callable[[], Any]], progress: Callable[[str, int, int, float], None]
) -> dict[str, Any]:
    """Compile every declared program (`Program.declare`), on CPU several at a time; the programs by name.

    `progress` is told a name, how many are done, of how many, and the seconds that the name took.
    """
    done = count(1)

    def one(name: str) -> Any:
        start = perf_counter()
        program = programs[name]()
        progress(name, next(done), len(programs), perf_counter() - start)
        return program

    # On an accelerator XLA tries out kernels as it compiles: two at once would measure each other.
    workers = min(8, os.cpu_count() or 1) if jax.default_backend() == "cpu" else 1
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        return dict(zip(programs, pool.map(one, programs), strict=True))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # one that is asked to stop waits for no compilation
