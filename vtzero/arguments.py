"""What may be typed after `vtzero`: verbs, their options, and the texts of --help. Knows no verb's work."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtzero.config import suggestion

TAKE_KEYS = ("train", "bench", "plan")
"""Verbs that take a config's keys too."""


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The verb with its options, and the keys and values of a config that are left.

    Ends the process with exit code 2 and a line for what nobody knows, and with 0 after --help.
    """
    parser = argparse.ArgumentParser("vtzero", description="VisualThinker-R1-Zero in JAX: GRPO on Qwen2-VL")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for declare in (_train, _evaluate, _rescore, _sample, _export, _import, _bench, _plan, _report, _scenes):
        declare(verbs)
    known, rest = parser.parse_known_args(arguments)
    if rest and known.verb not in TAKE_KEYS:
        _refuse(verbs.choices[known.verb], rest)
    return known, rest


def _refuse(parser: argparse.ArgumentParser, rest: Sequence[str]) -> None:
    unknown = next((argument for argument in rest if argument.startswith("-")), rest[0]).partition("=")[0]
    options = re.findall(r"--[\w-]+", parser.format_help())
    parser.error(f"unknown argument {unknown}{suggestion(unknown, options)}")


def _train(verbs: Any) -> None:
    parser = _verb(verbs, "train", "train by a config (GRPO or SFT); a second start resumes")
    parser.add_argument("config", help="YAML file; further --key value pairs override it")
    parser.add_argument(
        "--dry_run",
        "--dry-run",
        action="store_true",
        help="print the resolved recipe, data counts, tokens and memory; read no weights",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--allow_changes",
        "--allow-changes",
        action="store_true",
        help="go on with a run whose folder has another config; without it that is an error",
    )
    _distributed_argument(parser)


def _evaluate(verbs: Any) -> None:
    parser = _verb(verbs, "eval", "accuracy of a model on a benchmark")
    _model_arguments(parser)
    parser.add_argument(
        "--benchmark", default="scenes", help="NAME (from the hub), NAME=FILE, or a jsonl or parquet file"
    )
    parser.add_argument(
        "--image-folder",
        type=Path,
        help="where the images are that the rows name; needed where they are not beside your file",
    )
    parser.add_argument("--fetch-images", action="store_true", help="fetch missing images from their links")
    parser.add_argument("--limit", type=int, help="only the first N items")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--opening", default="", help="text put at the start of every answer")
    parser.add_argument(
        "--out", type=Path, help="folder for eval/BENCHMARK-0.json and .jsonl; a second start continues"
    )
    parser.add_argument("--overwrite", action="store_true", help="start afresh what is in --out")
    _distributed_argument(parser)


def _rescore(verbs: Any) -> None:
    parser = _verb(verbs, "rescore", "score saved outputs again, without a model")
    parser.add_argument("file", type=Path, help="eval/BENCHMARK-STEP.jsonl, or outputs of BLINK or R1-V")
    parser.add_argument(
        "--scorer", help="strict, lenient, paper, superclevr, geoqa or math (default: the file's)"
    )
    parser.add_argument("--require-tags", action="store_true", help="strict: only answers inside the tags")
    parser.add_argument(
        "--choices", default="", help="of every item, where the file has none: 'a, b' or JSON"
    )
    parser.add_argument("--differences", action="store_true", help="print each item scored otherwise")


def _sample(verbs: Any) -> None:
    parser = _verb(verbs, "sample", "answers to questions about an image, as they are drawn")
    _model_arguments(parser)
    parser.add_argument(
        "question", nargs="?", help="the question; without one, those typed or on standard input, one a line"
    )
    parser.add_argument(
        "--interactive", action="store_true", help="go on asking after the question; /help lists commands"
    )
    parser.add_argument("--image", action="append", default=[], type=Path, help="image; repeat for several")
    parser.add_argument("--options", default="", help="options: commas between, or a JSON list")
    parser.add_argument("--answer", help="the right answer: each sample is then scored")
    parser.add_argument(
        "--reward",
        help="by these rewards, commas between, of your own as file.py:name (accuracy_strict,format_paper)",
    )
    parser.add_argument("-n", "--num-generations", type=int, help="answers to a question (4; greedy: 1)")
    heat = parser.add_mutually_exclusive_group()
    heat.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (1)")
    heat.add_argument("--greedy", action="store_const", const=0.0, dest="temperature")
    parser.add_argument("--top-k", type=int, default=0)
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same answers (0)")
    parser.add_argument("--raw", action="store_true", help="a line a token: id, log-probability, text")
    parser.add_argument(
        "--prompt-only",
        action="store_true",
        help="print the prompt and count its tokens; draw nothing",
    )


def _export(verbs: Any) -> None:
    parser = _verb(verbs, "export", "a run's checkpoint (Orbax) -> a Hugging Face folder")
    parser.add_argument("run_folder", type=Path, help="the run's folder, or what `vtzero import` wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--step", type=int, help="checkpoint step (default: the last)")
    _distributed_argument(parser)


def _import(verbs: Any) -> None:
    parser = _verb(verbs, "import", "a Hugging Face folder -> an Orbax checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    _distributed_argument(parser)


def _bench(verbs: Any) -> None:
    parser = _verb(verbs, "bench", "this machine against its own limits, by the phases of a step")
    parser.add_argument("config", nargs="?", help="YAML file; further --key value pairs override it")
    parser.add_argument("--size", help="a published size for the config's model, such as Qwen2-VL-2B")
    parser.add_argument("--prompt-length", type=int, help="tokens of a prompt (default: max_prompt_length)")
    parser.add_argument("--image-size", help="WIDTHxHEIGHT (default: the largest that training meets)")
    parser.add_argument(
        "--only", default="all", help="of vision, prefill, decode, score, update, step; or none"
    )
    parser.add_argument(
        "--compare", default="none", help="comparisons (see the README), commas between; or all"
    )
    parser.add_argument(
        "--lengths", default="32,64,128,192,256,320,384,448,512,640", help="answer lengths of the comparison"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed calls, of which the median counts (3)")


def _plan(verbs: Any) -> None:
    parser = _verb(verbs, "plan", "compile a config's step for TPU slices that are not here")
    parser.add_argument("config", help="YAML file; further --key value pairs override it")
    parser.add_argument("--topology", action="append", default=[], help="such as v5e:4x4; repeat for several")
    parser.add_argument("--size", help="a published size for the config's model, such as Qwen2-VL-7B")
    parser.add_argument(
        "--only",
        default="vision,sampling,scoring,update",
        help="of vision (where it is frozen), sampling, scoring, update; commas between",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="look for each slice's mesh and micro-batches; those estimated to be fastest are compiled first",
    )
    parser.add_argument("--best", type=int, default=1, help="with --search, stop when N of them fit (1)")
    parser.add_argument(
        "--no-changes", action="store_true", help="where the step does not fit, do not look for what would"
    )
    parser.add_argument(
        "--compile-at-most",
        type=int,
        default=6,
        help="candidates that --search, or the changes to what does not fit, may compile for a slice (6)",
    )


def _report(verbs: Any) -> None:
    parser = _verb(verbs, "report", "one page of your runs: curves, tables, every completion")
    parser.add_argument(
        "runs", nargs="*", metavar="[LABEL=]RUN", help="run folders, or folders of `eval --out`"
    )
    parser.add_argument("--out", type=Path, help="the page's file (default: report.html of the first run)")
    parser.add_argument("--figures", type=Path, help="a folder for the paper's figures, as PNG and SVG")
    parser.add_argument(
        "--max-size", type=float, default=30.0, help="MB of the page: what is more is left out evenly (30)"
    )
    parser.add_argument("--table", type=int, help="print the paper's table 3, 4 or 5 with your rows instead")
    parser.add_argument(
        "--scorer", default="strict", help="of --table: strict (tags or not), lenient or paper"
    )


def _scenes(verbs: Any) -> None:
    parser = _verb(verbs, "scenes", "draw scenes and write them in SAT's and CV-Bench's columns")
    parser.add_argument("out", type=Path, nargs="?", help="folder for the two parquet files")
    parser.add_argument("--train", type=int, default=1000, help="training rows")
    parser.add_argument("--test", type=int, default=400, help="held-out rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sheet",
        type=Path,
        metavar="FILE.png",
        help="a picture of the first training rows with their questions and answers; needs no OUT",
    )
    parser.add_argument("--sheet-rows", type=int, default=3, help="of the picture (3)")
    parser.add_argument("--sheet-columns", type=int, default=4, help="of the picture (4: one a kind)")


def _verb(verbs: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    return parser


def _distributed_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes that work as one (TPU pods, Slurm, Open MPI; else JAX_* variables)",
    )


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="tiny", help="Hugging Face folder, a run's folder (its export is used), or 'tiny'"
    )
    parser.add_argument("--prompt-template", help="of a run its own, else r1_zero_base")
    parser.add_argument("--max-completion-length", type=int, help="tokens; of a run its own, else 72")
    parser.add_argument("--max-prompt-length", type=int, help="tokens (eval: a run's own; else 1024)")
    parser.add_argument("--max-pixels", type=int, help="of a run its own, else the folder's")
