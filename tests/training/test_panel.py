"""The panel of a terminal: what it shows, at every width, and that nothing in it is obeyed."""

import io
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from vtzero.training.completions import CompletionRow
from vtzero.training.panel import Panel, Trend

METRICS = {
    "reward": 1.25,
    "rewards/accuracy_strict/mean": 0.5,
    "completions/mean_length": 38.0,
    "completions/clipped_ratio": 0.125,
    "kl": 0.01,
    "loss": 0.001,
    "timing_s/data": 0.01,
    "timing_s/gen": 0.34,
    "timing_s/reward": 0.02,
    "timing_s/ref": 0.17,
    "timing_s/update_actor": 0.38,
    "timing_s/step": 0.92,
    "perf/total_num_tokens": 6000.0,
    "perf/time_per_step": 2.0,
    "perf/cpu_memory_used_gb": 1.25,
    "perf/max_memory_allocated_gb": 70.5,
}


def panel(width: int = 100, title: str = "runs/tiny", **console: object) -> tuple[Panel, io.StringIO]:
    file = io.StringIO()
    options = {"force_terminal": True, "width": width, "height": 50, "file": file} | console
    return Panel(150, 0, title, Console(**options)), file


def drawn(shown: Panel, file: io.StringIO) -> list[str]:
    """Its lines, without their colours."""
    file.truncate(0)
    shown._console.print(shown)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).replace("\x00", "").splitlines()


def test_it_shows_where_the_run_is_and_how_it_goes():
    shown, file = panel()
    shown.phase("gen")
    shown.step(42, METRICS)
    text = "\n".join(drawn(shown, file))
    for said in ("step 42/150", "elapsed 0:00:00", "▸ gen 0.34 s", "update 0.38 s", "reward", "1.25"):
        assert said in text
    for said in (
        "accuracy 0.50",
        "clipped 0.12",
        "kl 0.010",
        "tokens/s 3,000",
        "host 1.2 GiB",
        "device 70.5 GiB",
    ):
        assert said in text


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("title", ["runs/tiny", "folder/" * 50, "目录/" * 30])
def test_it_fits_every_width(width, title):
    shown, file = panel(width, title)
    shown.step(42, METRICS)
    shown.evaluating(100, 400)
    for step in (0, 50):
        shown.evaluated(step, {"accuracy": 50.0, "accuracy_lenient": 75.0, "mean_length": 9.5, "n": 4})
    lines = drawn(shown, file)
    assert {cell_len(line) for line in lines} == {min(120, width - 2)}
    assert "step 42/150" in "\n".join(lines)


def test_nothing_moves_when_the_next_phase_begins():
    shown, file = panel()
    shown.step(1, METRICS)
    rows = []
    for phase in ("data", "gen", "reward", "ref", "update"):
        shown.phase(phase)
        (row,) = (line for line in drawn(shown, file) if "gen" in line)
        assert f"▸ {phase}" in row
        rows.append(row.replace("▸", " "))
    assert len(set(rows)) == 1


def test_the_rest_of_a_run_has_phases_too():
    shown, file = panel()
    shown.compiled("update", 2, 5, 3.0)
    assert "▸ compiling 2/5" in "\n".join(drawn(shown, file))
    shown.evaluating(100, 400)
    assert "▸ eval 100/400" in "\n".join(drawn(shown, file))
    shown.phase("export")
    assert "▸ export" in "\n".join(drawn(shown, file))


def test_held_out_accuracy_goes_from_the_first_to_the_last():
    shown, file = panel()
    for step, accuracy in ((0, 10.0), (50, 60.0), (100, 88.0)):
        shown.evaluated(step, {"accuracy": accuracy, "accuracy_lenient": 99, "mean_length": 9.5, "n": 4})
    assert "held out 10.0 % -> 88.0 %" in "\n".join(drawn(shown, file))


def test_a_supervised_run_shows_its_loss():
    shown, file = panel()
    for step, loss in ((1, 3.0), (2, 2.0), (3, 1.0)):
        shown.step(step, {"loss": loss, "timing_s/data": 0.1, "timing_s/update_actor": 0.2})
    text = "\n".join(drawn(shown, file))
    assert re.search(r"loss +1\.0000 +█.▁", text)
    assert "gen" not in text


def test_no_colour_means_no_colour():
    shown, file = panel(no_color=True, color_system="truecolor")
    shown.phase("gen")
    shown.step(1, METRICS)
    file.truncate(0)
    shown._console.print(shown)
    codes = {code for found in re.findall(r"\x1b\[([0-9;]*)m", file.getvalue()) for code in found.split(";")}
    assert codes <= {"0", "1", "2", "22"}  # bold, dim and their end


def test_a_terminal_that_knows_ascii_alone_gets_nothing_else():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    shown = Panel(150, 0, "runs/tiny", Console(file=file, force_terminal=True, width=80, color_system=None))
    shown.phase("gen")
    for step in range(1, 20):
        shown.step(step, METRICS | {"reward": float(step)})
    shown._console.print(shown)
    file.flush()
    assert b"> gen" in raw.getvalue()


def test_what_models_and_folders_say_is_text():
    shown, file = panel(title="\x1b[2J[bold]run[/bold]")
    assert "\\x1b[2J[bold]run[/bold]" in "\n".join(drawn(shown, file))
    file.truncate(0)
    scores = {"rewards": {"accuracy": 1.0}, "reward": 1.0, "advantage": 0.0, "length": 3, "terminated": True}
    row = CompletionRow("q", "\x1b[2J [red]x[/red] :smile: \u202e", **scores)
    shown.completions(1, [row])
    assert "\\x1b[2J [red]x[/red] :smile: \\u202e" in file.getvalue()


def test_the_terminal_is_given_back_and_the_end_stands_below():
    shown, file = panel()
    shown.start()
    shown.step(150, METRICS)
    shown.finished({"steps": 150, "seconds": 60.0}, Path("runs/tiny"))
    shown.close()
    written = file.getvalue()
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert written.rindex("done: 150 steps") > written.rindex("╯")


def test_a_trend_rises_from_the_lowest_to_the_highest_mark():
    trend = Trend()
    for value in range(8):
        trend.add(value)
    assert trend.drawn(20) == "▁▂▃▄▅▆▇█"
    assert trend.drawn(4) == "▁▃▆█"
    trend.add(float("nan"))
    assert trend.drawn(20) == "▁▂▃▄▅▆▇█"


def test_a_trend_of_a_long_run_stays_small_and_whole():
    trend = Trend(most=16)
    for value in range(10_000):
        trend.add(value)
    assert len(trend._points) <= 16
    assert list(trend.drawn(8)) == sorted(trend.drawn(8))
    assert trend.drawn(8)[0] == "▁"


def test_a_trend_of_nothing_and_of_one_value():
    trend = Trend()
    assert trend.drawn(10) == ""
    trend.add(5.0)
    assert trend.drawn(10) == "▁"
    assert trend.drawn(0) == ""
