"""The command line: loads a config, calls one function, says how it ended. No logic.

Exit codes: 0 done, 2 a user's mistake (one line says which), 1 a failure, 130 interrupted; of `train`
75 instead (EX_TEMPFAIL of sysexits.h): the same command goes on.
"""

import argparse
import ctypes
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from vtzero.arguments import parse
from vtzero.config import RunConfig, load_config, parse_overrides
from vtzero.failures import DONE, GOES_ON, INTERRUPTED, MISTAKE, described, report_unraised
from vtzero.signals import came, caught, hear, heard
from vtzero.terminal import its_lines, visible

_MALLOC = {"MALLOC_ARENA_MAX": (-8, 2), "MALLOC_MMAP_THRESHOLD_": (-3, 2**20)}
"""mallopt's parameters of malloc.h and their values, by the variable with which a person may set each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the console command `vtzero`."""
    # Else transformers prints on every start that torch is missing, which is never needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Orbax logs what it also raises, with a traceback from each of its threads: 1,300 lines for a full disk.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = report_unraised
    _write_anything()
    known, rest = parse(arguments)
    _hold_memory_together()
    with heard(partial(_end_at_once, known.verb)):
        code = _run(known, rest)
    if code and getattr(known, "distributed", False):
        from vtzero.parallel.processes import leave

        leave(code)
    if code in (GOES_ON, INTERRUPTED):
        _end(code)
    return code


def _write_anything() -> None:
    """What a model says may hold any character, and the terminal may know few of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _hold_memory_together() -> None:
    """Let glibc's threads share arenas, and give large pieces of memory back as soon as they are free.

    By itself it makes eight arenas a core, each of which keeps the most that a thread ever had in it, and
    takes pieces of up to 32 MiB out of arenas, which they break up. 2,000 steps of a small run with 40
    evaluations and 40 checkpoints then grew it by 4.4 %; steps of `tiny` are as fast either way.
    """
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for name, (parameter, value) in _MALLOC.items():
            if name not in os.environ:
                library.mallopt(parameter, value)


def _end_at_once(verb: str) -> NoReturn:
    """Where nothing can be ended in order; by the bytes, since what is printed may be half printed."""
    os.write(2, f"vtzero {verb}: interrupted\n".encode())
    os._exit(_code_of_interrupted(verb))


def _end(code: int) -> NoReturn:
    """End without waiting for threads: a compilation that nobody needs any more can take minutes."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(known: argparse.Namespace, rest: list[str]) -> int:
    """One verb; the exit code."""
    try:
        figures = _VERBS[known.verb](known, rest)
    except KeyboardInterrupt as error:
        return _interrupted(known.verb, error)
    except Exception as error:
        if came():  # a library, such as one that is being imported, told it in its own way
            return _interrupted(known.verb, error.__context__)
        code, line = described(error)
        if line is None:
            print(its_lines(traceback.format_exc()), file=sys.stderr)
        else:
            print(f"vtzero {known.verb}: {line}", file=sys.stderr)
        return code
    if known.json:
        print(json.dumps(figures))
    elif "folder" in figures:
        print(f"wrote {visible(figures['folder'])}")
    return MISTAKE if figures.get("mistakes") else DONE


def _interrupted(verb: str, error: BaseException | None) -> int:
    caught()
    known = error.args if isinstance(error, KeyboardInterrupt) else ()
    print(visible("; ".join([f"vtzero {verb}: interrupted", *map(str, known)])), file=sys.stderr)
    return _code_of_interrupted(verb)


def _code_of_interrupted(verb: str) -> int:
    return GOES_ON if verb == "train" else INTERRUPTED


def _join(known: argparse.Namespace) -> None:
    if known.distributed:
        from vtzero.parallel.processes import start

        start()
        # JAX's own handler only makes a note of SIGTERM, and the process would go on until it is killed.
        hear()


def _config(known: argparse.Namespace, rest: list[str]) -> RunConfig:
    def read() -> RunConfig:
        return load_config(known.config, parse_overrides(rest))

    if not known.distributed:
        return read()
    from vtzero.parallel.processes import in_all

    return in_all(read)


def _train(known: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    if known.dry_run:
        from vtzero.training.recipe import dry_run

        return dry_run(load_config(known.config, parse_overrides(rest)))
    from vtzero.training.compilation import keep_programs
    from vtzero.training.loop import train

    keep_programs()
    # Before the config is read: the others would wait for one that failed and never joined.
    _join(known)
    config = _config(known, rest)
    return train(config, quiet=known.quiet, as_json=known.json, allow_changes=known.allow_changes)


def _eval(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.inference.evaluation import EvalSettings, evaluate_model
    from vtzero.training.compilation import keep_programs

    keep_programs()
    _join(known)
    asked = EvalSettings(
        benchmark=known.benchmark,
        limit=known.limit,
        batch_size=known.batch_size,
        opening=known.opening,
        repetition_penalty=known.repetition_penalty,
        image_folder=known.image_folder,
        fetch_images=known.fetch_images,
    )
    return evaluate_model(_model_settings(known), asked, out=known.out, overwrite=known.overwrite)


def _rescore(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.evaluation.rescore import rescore

    return rescore(
        known.file,
        scorer=known.scorer,
        require_tags=known.require_tags,
        choices=known.choices,
        differences=known.differences,
    )


def _sample(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.evaluation.rescore import parse_choices
    from vtzero.inference.dialogue import parse_names
    from vtzero.inference.sample import sample_model
    from vtzero.training.compilation import keep_programs

    keep_programs()
    plain = (
        *("answer", "num_generations", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
        *("seed", "raw"),
    )
    asking: dict[str, Any] = {name: getattr(known, name) for name in plain}
    asking |= {"images": tuple(known.image), "options": tuple(parse_choices(known.options))}
    asking["rewards"] = None if known.reward is None else parse_names(known.reward)
    return sample_model(
        _model_settings(known),
        asking,
        known.question,
        interactive=known.interactive,
        prompt_only=known.prompt_only,
    )


def _model_settings(known: argparse.Namespace) -> Any:
    from vtzero.inference.models import ModelSettings

    return ModelSettings(
        model=known.model,
        prompt_template=known.prompt_template,
        max_completion_length=known.max_completion_length,
        max_prompt_length=known.max_prompt_length,
        max_pixels=known.max_pixels,
    )


def _export(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.training.convert import export_run

    _join(known)
    return export_run(known.run_folder, known.out, known.step)


def _import(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.training.convert import import_folder

    _join(known)
    return import_folder(known.folder, known.out)


def _bench(known: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from vtzero.bench.command import BenchSettings, bench, parse_image_size, parse_lengths

    settings = BenchSettings(
        size=known.size,
        prompt_length=known.prompt_length,
        image_size=None if known.image_size is None else parse_image_size(known.image_size),
        only=tuple(known.only.split(",")),
        compare=tuple(known.compare.split(",")),
        repeats=known.repeats,
        lengths=parse_lengths(known.lengths),
    )
    config = None if known.config is None else load_config(known.config, parse_overrides(rest))
    return bench(config, settings)


def _plan(known: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from vtzero.planning.environment import prepare_environment

    prepare_environment()
    from vtzero.planning.command import PlanSettings, plan

    settings = PlanSettings(
        topologies=tuple(known.topology),
        size=known.size,
        only=tuple(known.only.split(",")),
        search=known.search,
        best=known.best,
        changes=not known.no_changes,
        compile_at_most=known.compile_at_most,
    )
    return plan(load_config(known.config, parse_overrides(rest)), settings)


def _report(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    if known.table is None:
        from vtzero.reports.command import report

        return report(known.runs, out=known.out, figures=known.figures, max_megabytes=known.max_size)
    from rich.console import Console

    if known.out or known.figures:
        raise ValueError("--table prints a table; leave out --out and --figures")
    from vtzero.reports.results import read_results
    from vtzero.reports.tables import paper_table, table_figures

    results = read_results(known.runs, known.scorer)
    Console().print(paper_table(known.table, results, known.scorer))
    return table_figures(known.table, results, known.scorer)


def _scenes(known: argparse.Namespace, _: list[str]) -> dict[str, Any]:
    from vtzero.scenes.command import SheetSettings, draw

    sheet = None
    if known.sheet is not None:
        sheet = SheetSettings(known.sheet, rows=known.sheet_rows, columns=known.sheet_columns)
    return draw(known.out, sheet, train=known.train, test=known.test, seed=known.seed)


_VERBS: dict[str, Callable[[argparse.Namespace, list[str]], dict[str, Any]]] = {
    "train": _train,
    "eval": _eval,
    "rescore": _rescore,
    "sample": _sample,
    "export": _export,
    "import": _import,
    "bench": _bench,
    "plan": _plan,
    "report": _report,
    "scenes": _scenes,
}


if __name__ == "__main__":
    sys.exit(main())
