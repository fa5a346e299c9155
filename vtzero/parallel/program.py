"""A function and its compiled programs, one for each set of shapes that it is given.

`jax.jit` compiles whatever shapes it meets, in silence. Here the shapes can be declared and compiled before
the first call, and whatever is compiled later is counted. Knows no model and no run.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


class Program:
    """`jax.jit(function, **options)`, compiled once for each structure and shapes of its arguments.

    Inputs must lie where those it was compiled for lay; a committed array that lies elsewhere is an error,
    not another compilation.
    """

    def __init__(self, function: Callable[..., Any], **options: Any):
        self._jit = jax.jit(function, **options)
        self._compiled: dict[Any, Any] = {}

    def __call__(self, *arguments: Any) -> Any:
        """Run the program for these arguments, compiling it where it was not declared.

        Called while something else is traced, it becomes a part of that.
        """
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments)):
            return self._jit(*arguments)
        key = _shapes(arguments)
        if key not in self._compiled:
            self._compiled[key] = self.lower(*arguments).compile()
        return self._compiled[key](*arguments)

    def lower(self, *arguments: Any) -> Any:
        """`jax.jit`'s own; arguments are arrays, or `jax.ShapeDtypeStruct`s that say where they will lie."""
        return self._jit.lower(*arguments)

    def declare(self, *arguments: Any) -> Callable[[], Any]:
        """Trace for these shapes now; what is returned compiles, in any thread, and gives the program."""
        if ready := self._compiled.get(_shapes(arguments)):
            return lambda: ready
        key, lowered = _shapes(arguments), self.lower(*arguments)

        def compile_it() -> Any:
            self._compiled[key] = lowered.compile()
            return self._compiled[key]

        return compile_it

    def is_compiled_for(self, *arguments: Any) -> bool:
        """Whether there is a program for these shapes."""
        return _shapes(arguments) in self._compiled

    @property
    def compilations(self) -> int:
        """How many programs there are."""
        return len(self._compiled)


def _shapes(arguments: tuple[Any, ...]) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((_shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves)


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(leaf.shape) if hasattr(leaf, "shape") else np.shape(leaf)
