"""The command line: parses, loads a config, calls one function. No logic.

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
from pathlib import Path
from typing import Any, NoReturn

from vtzero.config import RunConfig, load_config, parse_overrides
from vtzero.failures import DONE, GOES_ON, INTERRUPTED, MISTAKE, described, report_unraised
from vtzero.signals import came, caught, hear, heard
from vtzero.terminal import visible

_M_ARENA_MAX = -8  # of malloc.h


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the console command `vtzero`."""
    # Else transformers prints on every start that torch is missing, which is never needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Orbax logs what it also raises, with a traceback from each of its threads: 1,300 lines for a full disk.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = report_unraised
    _write_anything()
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.verb not in ("train", "bench", "plan"):
        parser.error(f"unknown argument {rest[0]}")
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
    """Let threads share glibc's arenas, each of which keeps the most that a thread ever had in it.

    With the eight a core that it makes by itself 40 evaluations grew a small run by 1.6 %, with two 40
    evaluations and 40 checkpoints by 0.2 %.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 2)


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
        figures = known.run(known, rest)
    except KeyboardInterrupt as error:
        return _interrupted(known.verb, error)
    except Exception as error:
        if came():  # a library, such as one that is being imported, told it in its own way
            return _interrupted(known.verb, error.__context__)
        code, line = described(error)
        if line is None:
            traceback.print_exc()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vtzero", description="VisualThinker-R1-Zero in JAX: GRPO on Qwen2-VL")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    train = _verb(verbs, "train", _train, "train by a config (GRPO or SFT); a second start resumes")
    train.add_argument("config", help="YAML file; further --key value pairs override it")
    train.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="print the resolved recipe, data counts, tokens and memory; read no weights",
    )
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")
    _distributed_argument(train)

    evaluate = _verb(verbs, "eval", _eval, "accuracy of a model on a benchmark")
    _model_arguments(evaluate)
    evaluate.add_argument(
        "--benchmark", default="scenes", help="NAME (from the hub), NAME=FILE, or a jsonl or parquet file"
    )
    evaluate.add_argument(
        "--image-folder",
        type=Path,
        help="where the images are that the rows name; of your own file: may be",
    )
    evaluate.add_argument("--fetch-images", action="store_true", help="fetch missing images from their links")
    evaluate.add_argument("--limit", type=int, help="only the first N items")
    evaluate.add_argument("--batch-size", type=int, default=64)
    evaluate.add_argument("--repetition-penalty", type=float, default=1.0)
    evaluate.add_argument("--opening", default="", help="text put at the start of every answer")
    evaluate.add_argument(
        "--out", type=Path, help="folder for eval/BENCHMARK-0.json and .jsonl; a second start continues"
    )
    evaluate.add_argument("--overwrite", action="store_true", help="start afresh what is in --out")
    _distributed_argument(evaluate)

    rescore = _verb(verbs, "rescore", _rescore, "score saved outputs again, without a model")
    rescore.add_argument("file", type=Path, help="eval/BENCHMARK-STEP.jsonl, or outputs of BLINK or R1-V")
    rescore.add_argument(
        "--scorer", help="strict, lenient, paper, superclevr, geoqa or math (default: the file's)"
    )
    rescore.add_argument("--require-tags", action="store_true", help="strict: only answers inside the tags")
    rescore.add_argument(
        "--choices", default="", help="of every item, where the file has none: 'a, b' or JSON"
    )
    rescore.add_argument("--differences", action="store_true", help="print each item scored otherwise")

    sample = _verb(verbs, "sample", _sample, "answers to questions about an image, as they are drawn")
    _model_arguments(sample)
    sample.add_argument(
        "question", nargs="?", help="the question; without one, those typed or on standard input, one a line"
    )
    sample.add_argument(
        "--interactive", action="store_true", help="go on asking after the question; /help lists commands"
    )
    sample.add_argument("--image", action="append", default=[], type=Path, help="image; repeat for several")
    sample.add_argument("--options", default="", help="options: commas between, or a JSON list")
    sample.add_argument("--answer", help="the right answer: each sample is then scored")
    sample.add_argument(
        "--reward",
        help="by these rewards, commas between, of your own as file.py:name (accuracy_strict,format_paper)",
    )
    sample.add_argument("-n", "--num-generations", type=int, help="answers to a question (4; greedy: 1)")
    heat = sample.add_mutually_exclusive_group()
    heat.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1)")
    heat.add_argument("--greedy", action="store_const", const=0.0, dest="temperature")
    sample.add_argument("--top-k", type=int, default=0)
    sample.add_argument("--top-p", type=float, default=1.0)
    sample.add_argument("--min-p", type=float, default=0.0)
    sample.add_argument("--repetition-penalty", type=float, default=1.0)
    sample.add_argument("--seed", type=int, default=0, help="the same seed draws the same answers (0)")
    sample.add_argument("--raw", action="store_true", help="a line a token: id, log-probability, text")
    sample.add_argument(
        "--prompt-only",
        action="store_true",
        help="print the prompt and count its tokens; draw nothing",
    )

    export = _verb(verbs, "export", _export, "a run's checkpoint (Orbax) -> a Hugging Face folder")
    export.add_argument("run_folder", type=Path, help="the run's folder, or what `vtzero import` wrote")
    export.add_argument("out", type=Path)
    export.add_argument("--step", type=int, help="checkpoint step (default: the last)")
    _distributed_argument(export)

    importer = _verb(verbs, "import", _import, "a Hugging Face folder -> an Orbax checkpoint")
    importer.add_argument("folder", type=Path)
    importer.add_argument("out", type=Path)
    _distributed_argument(importer)

    bench = _verb(verbs, "bench", _bench, "this machine against its own limits, by the phases of a step")
    bench.add_argument("config", nargs="?", help="YAML file; further --key value pairs override it")
    bench.add_argument("--size", help="a published size for the config's model, such as Qwen2-VL-2B")
    bench.add_argument("--prompt-length", type=int, help="tokens of a prompt (default: max_prompt_length)")
    bench.add_argument("--image-size", help="WIDTHxHEIGHT (default: the largest that training meets)")
    bench.add_argument(
        "--only", default="all", help="of vision, prefill, decode, score, update, step; or none"
    )
    bench.add_argument(
        "--compare", default="none", help="comparisons (see the README), commas between; or all"
    )
    bench.add_argument(
        "--lengths", default="32,64,128,192,256,320,384,448,512,640", help="answer lengths of the comparison"
    )
    bench.add_argument("--repeats", type=int, default=3, help="timed calls, of which the median counts (3)")

    planner = _verb(verbs, "plan", _plan, "compile a config's step for TPU slices that are not here")
    planner.add_argument("config", help="YAML file; further --key value pairs override it")
    planner.add_argument(
        "--topology", action="append", default=[], help="such as v5e:4x4; repeat for several"
    )
    planner.add_argument("--size", help="a published size for the config's model, such as Qwen2-VL-7B")
    planner.add_argument(
        "--only",
        default="vision,sampling,scoring,update",
        help="of vision (where it is frozen), sampling, scoring, update; commas between",
    )
    planner.add_argument(
        "--search",
        action="store_true",
        help="look for each slice's mesh and micro-batches; those estimated to be fastest are compiled first",
    )
    planner.add_argument("--best", type=int, default=1, help="with --search, stop when N of them fit (1)")
    planner.add_argument(
        "--no-changes", action="store_true", help="where the step does not fit, do not look for what would"
    )
    planner.add_argument(
        "--compile-at-most",
        type=int,
        default=6,
        help="candidates that --search, or the changes to what does not fit, may compile for a slice (6)",
    )

    report = _verb(verbs, "report", _report, "one page of your runs: curves, tables, every completion")
    report.add_argument(
        "runs", nargs="*", metavar="[LABEL=]RUN", help="run folders, or folders of `eval --out`"
    )
    report.add_argument("--out", type=Path, help="the page's file (default: report.html of the first run)")
    report.add_argument("--figures", type=Path, help="a folder for the paper's figures, as PNG and SVG")
    report.add_argument(
        "--max-size", type=float, default=30.0, help="MB of the page: what is more is left out evenly (30)"
    )
    report.add_argument("--table", type=int, help="print the paper's table 3, 4 or 5 with your rows instead")
    report.add_argument(
        "--scorer", default="strict", help="of --table: strict (tags or not), lenient or paper"
    )

    scenes = _verb(verbs, "scenes", _scenes, "draw scenes and write them in SAT's and CV-Bench's columns")
    scenes.add_argument("out", type=Path, nargs="?", help="folder for the two parquet files")
    scenes.add_argument("--train", type=int, default=1000, help="training rows")
    scenes.add_argument("--test", type=int, default=400, help="held-out rows")
    scenes.add_argument("--seed", type=int, default=0)
    scenes.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help="a picture of the first training rows with their questions and answers; needs no OUT",
    )
    scenes.add_argument("--sheet-rows", type=int, default=3, help="of the picture (3)")
    scenes.add_argument("--sheet-columns", type=int, default=4, help="of the picture (4: one a kind)")
    return parser


def _verb(verbs: Any, name: str, run: Callable[..., dict[str, Any]], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    return parser


def _distributed_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes that work as one (TPU pods, Slurm, Open MPI; else JAX_* variables)",
    )


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


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="tiny", help="Hugging Face folder, a run's folder (its export is used), or 'tiny'"
    )
    parser.add_argument("--prompt-template", help="of a run its own, else r1_zero_base")
    parser.add_argument("--max-completion-length", type=int, help="tokens; of a run its own, else 72")
    parser.add_argument("--max-prompt-length", type=int, help="tokens (eval: a run's own; else 1024)")
    parser.add_argument("--max-pixels", type=int, help="of a run its own, else the folder's")


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
    return train(config, quiet=known.quiet, as_json=known.json)


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


if __name__ == "__main__":
    sys.exit(main())
