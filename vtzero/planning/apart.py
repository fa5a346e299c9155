"""One program compiled in a process of its own, so that what the compiler took of this machine is given back.

Knows processes and jobs; what is compiled is `programs`' matter.
"""

import multiprocessing
import resource
import signal
import traceback
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import jax

from vtzero.bench.shapes import Shapes
from vtzero.config import RunConfig
from vtzero.models.qwen2_vl.config import Qwen2VLConfig
from vtzero.planning.chips import open_slice
from vtzero.planning.programs import Plan, Planned


@dataclass(frozen=True)
class Job:
    """One program of a config's step on a slice, by name."""

    config: RunConfig
    model: Qwen2VLConfig
    shapes: Shapes
    topology: str
    program: str


def compile_here(job: Job) -> Planned:
    """Compile in this process."""
    where = open_slice(job.topology)
    return Plan(job.config, job.model, job.shapes, where).compile(job.program)


def compile_apart(job: Job) -> Planned:
    """Compile in a process of its own, and say the most memory that it had.

    Raises RuntimeError with what the process raised, and ChildProcessError when it died before it could say
    anything.
    """
    # A server that has imported everything and touched no device: each process starts from it in no time.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    # A daemon: an interrupted plan does not wait for the compiler.
    process = context.Process(target=_answer, args=(job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer: Planned | str = receiver.recv()
    except EOFError:
        process.join()
        raise ChildProcessError(_death(job, process.exitcode)) from None
    process.join()
    if isinstance(answer, str):
        raise RuntimeError(f"{job.program} was not compiled for {job.topology}:\n{answer}")
    return answer


def _answer(job: Job, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it, and ends this process
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot be read without the chips
    try:
        planned = compile_here(job)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        sender.send(replace(planned, host_memory=peak))
    except Exception:
        sender.send(traceback.format_exc())


def _death(job: Job, code: int | None) -> str:
    killed = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
    hint = (
        "; this machine has most likely run out of memory: compile on one with more, or less at a time "
        "with --only"
    )
    return (
        f"the process that compiled {job.program} for {job.topology} was ended ({killed})"
        f"{hint if killed == 'SIGKILL' else ''}"
    )
