"""Event files as TensorBoard reads them, after a run that was interrupted too."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures.tensorboard_files import pictures_and_texts, scalars, settings
from PIL import Image
from tensorboard.plugin_util import markdown_to_safe_html

from vtzero.config import RunConfig
from vtzero.training.completions import CompletionRow, png_bytes
from vtzero.training.tensorboard import TensorBoardLog, cut, hyperparameters, read_events

LAST = 9
CONFIG = RunConfig(max_steps=LAST, output_dir="somewhere", learning_rate=0.5, data=("a", "b"))
PICTURE = png_bytes(Image.new("RGB", (600, 300)))


def group(step: int, **changed: Any) -> list[CompletionRow]:
    question = {"prompt": f"How many at {step}?", "answer": "2", "image": PICTURE}
    shared = {"length": 3, "terminated": True, "advantage": -1.0}
    answers = [{"completion": f"it is {n}", "rewards": {"accuracy": n}, "reward": 2 * n} for n in range(2)]
    return [CompletionRow(**shared | question | answer | changed) for answer in answers]


def write(folder: Path, steps: range, resume_step: int | None = None) -> Path:
    """The file that was written."""
    log = TensorBoardLog(folder / "tensorboard", resume_step)
    if resume_step:
        log.write(resume_step, {"eval/accuracy": resume_step})
    for step in steps:
        log.write(step, {"loss": 1 / 2**step, "kl": 0.5 * step})
        log.show(step, {"rewards/total": np.arange(step)}, group(step) if step % 2 else ())
        if step % 2 == 0 or step == LAST:
            log.write(step, {"eval/accuracy": step})
        if step == LAST:
            log.finished(step, hyperparameters(CONFIG))
    log.close()
    return max((folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)


def test_points_are_there_before_the_log_is_closed(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.write(1, {"loss": 0.5})
    assert scalars(tmp_path) == [(1, "loss", 0.5)]
    log.close()


def test_a_resumed_run_shows_what_an_uninterrupted_one_does(tmp_path):
    write(tmp_path / "whole", range(1, 10))
    write(tmp_path / "resumed", range(1, 7))
    write(tmp_path / "resumed", range(5, 8), resume_step=4)
    write(tmp_path / "resumed", range(3, 10), resume_step=2)
    assert scalars(tmp_path / "resumed") == scalars(tmp_path / "whole")
    assert pictures_and_texts(tmp_path / "resumed") == pictures_and_texts(tmp_path / "whole")
    assert settings(tmp_path / "resumed") == settings(tmp_path / "whole")


def test_a_run_that_was_done_and_goes_on_is_done_once(tmp_path):
    first = write(tmp_path, range(1, LAST + 1))
    log = TensorBoardLog(tmp_path / "tensorboard", resume_step=LAST)
    tags = [value.tag for event, _ in read_events(first.read_bytes()) for value in event.summary.value]
    assert tags.count("eval/accuracy") == 4
    assert not settings(tmp_path)
    log.finished(LAST, hyperparameters(CONFIG))
    log.close()
    assert len(settings(tmp_path)) == 3


def test_histograms_hold_every_number_that_is_one(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.show(
        1, {"completions/length": np.array([3, 3, 40]), "rewards/total": np.array([0.5, math.nan, math.inf])}
    )
    log.show(2, {"rewards/total": np.full(4, math.nan)})
    log.close()
    (_, lengths), *rest = pictures_and_texts(tmp_path)["completions/length"]
    assert (lengths.num, lengths.min, lengths.max, lengths.sum) == (3, 3, 40, 46)
    assert sum(lengths.bucket) == 3
    assert not rest
    (_, rewards), *rest = pictures_and_texts(tmp_path)["rewards/total"]
    assert (rewards.num, rewards.sum) == (1, 0.5)
    assert not rest


def test_a_group_is_shown_with_its_picture(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.show(3, {}, group(3))
    log.close()
    ((step, size, content),) = pictures_and_texts(tmp_path)["completions/image"]
    assert (step, size) == (3, (256, 128))
    assert Image.open(io.BytesIO(content)).size == size
    ((step, text),) = pictures_and_texts(tmp_path)["completions/group/text_summary"]
    assert step == 3
    for said in (
        "How many at 3?",
        "right answer: 2",
        "it is 0",
        "reward 2.00 (accuracy 1.00), advantage -1.00",
    ):
        assert said in text


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "![seen](http://example.com/pixel.png)",
        "\n\n# large",
        "```\n# large\n```",
        "a\r# b",
    ],
)
def test_what_a_model_says_is_neither_markdown_nor_html(tmp_path, hostile):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.show(1, {}, group(1, completion=hostile, answer=hostile, prompt=hostile, image=None))
    log.close()
    ((_, text),) = pictures_and_texts(tmp_path)["completions/group/text_summary"]
    page = markdown_to_safe_html(text)
    assert page.startswith("<pre><code>")
    assert page.count("<") == 4  # these two and their ends


def test_long_answers_and_large_groups_are_cut(tmp_path):
    log = TensorBoardLog(tmp_path / "tensorboard")
    log.show(1, {}, 32 * group(1, completion="x" * 10**6))
    log.close()
    ((_, text),) = pictures_and_texts(tmp_path)["completions/group/text_summary"]
    assert len(text) < 40_000


def test_settings_are_there_by_name_and_the_folder_is_not(tmp_path):
    write(tmp_path, range(1, LAST + 1))
    found = settings(tmp_path)
    values = found["_hparams_/session_start_info"]["sessionStartInfo"]["hparams"]
    assert values["learning_rate"] == 0.5
    assert values["data"] == "a, b"
    assert values["data_limit"] == "null"
    assert values["mesh.data"] == -1
    assert "output_dir" not in values
    experiment = found["_hparams_/experiment"]["experiment"]
    assert {info["name"] for info in experiment["hparamInfos"]} == set(values)
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert metrics == {"eval/accuracy", "eval/mean_length", "reward", "completions/mean_length"}


def test_later_steps_leave_the_files_themselves(tmp_path):
    first = write(tmp_path, range(1, 7))
    write(tmp_path, range(5, 7), resume_step=4)
    assert max(event.step for event, _ in read_events(first.read_bytes())) == 4
    assert [point for point in scalars(tmp_path) if point[1] == "eval/accuracy"] == [
        (step, "eval/accuracy", step) for step in (2, 4, 6)
    ]


def test_a_file_cut_or_garbled_anywhere_keeps_what_comes_before(tmp_path):
    file = write(tmp_path, range(1, 4))
    whole = file.read_bytes()
    ends = [end for _, end in read_events(whole)]
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        cut(file, last_step=3)
        assert file.stat().st_size == max([0, *(end for end in ends if end <= length)])
        file.write_bytes(whole[:length] + b"\xff" * 40)
        cut(file, last_step=3)
        assert whole.startswith(file.read_bytes())


def test_two_starts_in_one_second_write_two_files(tmp_path):
    for _ in range(3):
        write(tmp_path, range(1, 2), resume_step=0)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    assert [point[:2] for point in scalars(tmp_path)] == [(1, "kl"), (1, "loss")]


def test_a_full_disk_is_an_error_at_once(tmp_path):
    """Not a writer that waits for ever for a thread that is gone."""
    log = TensorBoardLog(tmp_path)
    log._events._py_recordio_writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        log.write(1, {"loss": 0.5})
