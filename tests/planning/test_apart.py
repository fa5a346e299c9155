"""A program compiled in a process of its own: the same figures, its memory, and clear words when it dies."""

import multiprocessing
import threading
import time
from importlib.util import find_spec

import pytest
from planning.steps import step

from vtzero.planning.apart import Job, compile_apart, compile_here

pytestmark = pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu, which needs no TPU")


def job(program):
    plan = step(mesh_fsdp=-1, mesh_data=1)
    return Job(plan.config, plan.model, plan.shapes, plan.where.name, program)


def test_the_figures_are_those_of_this_process_and_the_memory_its_own():
    here, apart = compile_here(job("scoring")), compile_apart(job("scoring"))
    assert (apart.memory, apart.received) == (here.memory, here.received)
    assert here.host_memory == 0
    assert 2**28 < apart.host_memory < 2**33


def test_a_process_that_is_killed_is_named_with_the_way_out():
    def kill():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        children[0].kill()

    threading.Thread(target=kill).start()
    with pytest.raises(ChildProcessError, match=r"update for v5e:2x2 was ended \(SIGKILL\).*out of memory"):
        compile_apart(job("update"))


def test_what_it_raises_is_told():
    with pytest.raises(RuntimeError, match=r"(?s)dream was not compiled for v5e:2x2.*Traceback"):
        compile_apart(job("dream"))
