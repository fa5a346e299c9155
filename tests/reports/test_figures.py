"""The figures of a report: what each shows, which are drawn, and that the same runs give the same bytes."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from matplotlib.colors import same_color, to_hex
from PIL import Image

from vtzero.reports.figure_curves import read_runs
from vtzero.reports.figure_style import COLOURS, bar, house_style, line
from vtzero.reports.figures import FIGURES, LENGTH, write_figures

STEPS = list(range(1, 201))
HOSTILE = {
    "an underscore": ("_hidden", "_hidden"),
    "mathematics": (r"$\frac{1}{2}$", r"$\frac{1}{2}$"),
    "broken mathematics": (r"$\undefined{$", r"$\undefined{$"),
    "an escape": ("\x1b[2Jgone", r"\x1b[2Jgone"),
    "turned round": ("abc\u202edef", r"abc\u202edef"),
    "letters that the font lacks": ("模型", r"\u6a21\u578b"),
}


def evaluation(benchmark, step, accuracy, **more):
    interval = [max(0.0, accuracy - 5), min(100.0, accuracy + 5)]
    return {"benchmark": benchmark, "step": step, "accuracy": accuracy, "accuracy_interval": interval, **more}


def trained(label="GRPO", **changed):
    """A run with everything."""
    metrics = {
        "step": STEPS,
        "reward": [0.4 + step / 200 for step in STEPS],
        "kl": [0.001 * step for step in STEPS],
        LENGTH: [100.0 + step for step in STEPS],
        "completions/clipped_ratio": [0.25] * len(STEPS),
    }
    evaluations = [evaluation("cv_bench", 0, 30.0), evaluation("cv_bench", 200, 60.0)]
    phases = {"update_actor": 30.0, "gen": 60.0, "own": 10.0}
    return {"label": label, "metrics": metrics, "evaluations": evaluations, "time_by_phase": phases} | changed


def evaluated(label, **accuracies):
    return {"label": label, "evaluations": [evaluation(name, 0, value) for name, value in accuracies.items()]}


def drawn(name, *runs):
    with house_style():
        return FIGURES[name](read_runs({"runs": runs}))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def note(figure):
    return figure.legends[0].get_title().get_text()


def texts(panel):
    return [text.get_text() for text in panel.texts]


def names(folder, *runs):
    return [path.name for path in write_figures(folder, {"runs": runs})]


# --- which are drawn ---


def test_a_whole_run_has_every_figure(tmp_path):
    expected = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    assert names(tmp_path / "new" / "folder", trained()) == expected
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(expected)


def test_a_run_without_evaluations_has_no_figure_of_accuracy(tmp_path):
    written = names(tmp_path, trained(evaluations=[]))
    assert "figure-4.png" in written
    assert not {"figure-1.png", "figure-2.png"} & {*written}


def test_one_evaluation_is_a_bar_and_no_curve(tmp_path):
    run = trained(evaluations=[evaluation("cv_bench", 0, 30.0)])
    assert "figure-1.png" not in names(tmp_path, run)
    assert (tmp_path / "figure-2.png").exists()


def test_an_evaluation_alone_has_bars_alone(tmp_path):
    assert names(tmp_path, evaluated("base", vsr=40.0)) == ["figure-2.png", "figure-2.svg"]


@pytest.mark.parametrize("runs", [[], [{}], [{"metrics": None, "evaluations": None, "time_by_phase": None}]])
def test_nothing_to_draw_writes_nothing(runs, tmp_path):
    assert write_figures(tmp_path / "folder", {"runs": runs}) == []
    assert not (tmp_path / "folder").exists()


def test_numbers_near_the_largest_are_drawn(tmp_path):
    run = trained()
    run["metrics"]["kl"][3], run["metrics"]["reward"][3] = 1e199, -1e199
    assert "kl.png" in names(tmp_path, run)


# --- what they show ---


def test_figure_1_shows_accuracy_above_length():
    accuracy, length = drawn("figure-1", trained()).axes
    assert accuracy.get_ylabel() == "CV-Bench\naccuracy (%)"
    assert length.get_ylabel() == "response length\nin training (tokens)"
    assert length.get_xlabel() == "training step"
    assert accuracy.lines[0].get_xydata().tolist() == [[0, 30], [200, 60]]
    band = accuracy.collections[0].get_paths()[0].get_extents()
    assert (band.ymin, band.ymax) == (25, 65)
    raw, mean = length.lines
    assert raw.get_ydata().tolist() == [100 + step for step in STEPS]
    assert mean.get_ydata()[99] == pytest.approx(200)


def test_figure_1_shares_its_steps():
    accuracy, length = drawn("figure-1", trained()).axes
    assert accuracy.get_xlim() == length.get_xlim()


def test_figure_1_says_what_is_shaded_and_smoothed():
    assert note(drawn("figure-1", trained())) == (
        "shaded: 95 % interval\nfaint: each step; line: mean of 9 steps"
    )


def test_figure_1_shows_the_runs_that_have_both():
    figure = drawn("figure-1", trained("SFT", metrics=None), trained("GRPO"), trained("other"))
    assert legend(figure) == ["GRPO", "other"]


def test_figure_1_has_a_panel_for_each_benchmark():
    both = [evaluation(name, step, 10.0) for name in ("scenes", "my own") for step in (0, 200)]
    *panels, _ = drawn("figure-1", trained(evaluations=both)).axes
    assert [panel.get_ylabel() for panel in panels] == ["drawn scenes\naccuracy (%)", "my own\naccuracy (%)"]


def test_figure_1_of_one_run_shows_lenient_accuracy_too():
    lenient = [evaluation("scenes", step, 10.0, accuracy_lenient=59.0 + step) for step in (0, 200)]
    figure = drawn("figure-1", trained(evaluations=lenient))
    assert legend(figure) == ["GRPO", "lenient (tags or not)"]
    assert figure.axes[0].lines[1].get_ydata().tolist() == [59, 259]
    assert legend(drawn("figure-1", trained(evaluations=lenient), trained("b"))) == ["GRPO", "b"]


def test_figure_2_shows_the_last_accuracy_beside_the_base():
    figure = drawn("figure-2", trained())
    (panel,) = figure.axes
    assert legend(figure) == ["base (step 0)", "GRPO"]
    assert texts(panel) == ["30.0", "60.0"]
    assert [patch.get_height() for patch in panel.patches] == [30, 60]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["CV-Bench"]
    assert note(figure) == "whiskers: 95 % interval"
    assert panel.get_ylim()[0] == 0


def test_figure_2_shows_intervals():
    (panel,) = drawn("figure-2", evaluated("base", vsr=40.0)).axes
    (whisker,) = panel.collections[0].get_segments()
    assert whisker[:, 1].tolist() == [35, 45]


def test_figure_2_groups_by_benchmark():
    figure = drawn("figure-2", evaluated("base", cv_bench=31.0, vsr=0.0), evaluated("SFT", vsr=36.0))
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_xticklabels()] == ["CV-Bench", "VSR"]
    centres = [round(patch.get_x() + patch.get_width() / 2) for patch in panel.patches]
    assert [patch.get_height() for patch in panel.patches] == [31, 0, 36]
    assert centres == [0, 1, 1]


def test_figure_2_shows_one_base_once():
    base = evaluated("base", cv_bench=30.0)
    assert legend(drawn("figure-2", base, trained("GRPO"), trained("SFT"))) == ["base", "GRPO", "SFT"]
    assert legend(drawn("figure-2", trained("GRPO"), trained("SFT"))) == ["base (step 0)", "GRPO", "SFT"]


def test_figure_2_tells_bases_apart():
    other = [evaluation("cv_bench", 0, 50.0), evaluation("cv_bench", 200, 70.0)]
    figure = drawn("figure-2", trained("GRPO"), trained("instruct", evaluations=other))
    assert legend(figure) == ["GRPO, step 0", "instruct, step 0", "GRPO", "instruct"]


def test_figure_2_of_an_interval_that_misses_its_accuracy_is_drawn():
    odd = {
        "label": "x",
        "evaluations": [{"benchmark": "vsr", "step": 0, "accuracy": 50, "accuracy_interval": [60, 40]}],
    }
    assert texts(drawn("figure-2", odd).axes[0]) == ["50.0"]


@pytest.mark.parametrize(
    ("name", "label", "last"),
    [
        ("figure-4", "mean response length\n(tokens)", 300),
        ("reward", "mean reward\n(weighted sum)", 1.4),
        ("kl", "KL from the reference\n(nats per token)", 0.2),
        ("truncation", "responses cut off (%)", 25),
    ],
)
def test_curves_are_over_steps_with_units(name, label, last):
    figure = drawn(name, trained("a"), trained("b"))
    (panel,) = figure.axes
    assert (panel.get_ylabel(), panel.get_xlabel()) == (label, "training step")
    assert legend(figure) == ["a", "b"]
    assert note(figure) == "faint: each step; line: mean of 9 steps"
    assert panel.lines[0].get_ydata()[-1] == pytest.approx(last)


def test_a_short_run_is_not_smoothed_and_its_steps_are_marked():
    figure = drawn("kl", trained(metrics={"step": [1, 2, 3], "kl": [0.0, 0.1, 0.3]}))
    (only,) = figure.axes[0].lines
    assert only.get_ydata().tolist() == [0, 0.1, 0.3]
    assert only.get_marker() == "o"
    assert note(figure) == ""


def test_what_is_never_negative_is_not_drawn_below_zero():
    metrics = {"step": [1, 2], "kl": [0.0, 1.0], "reward": [-1.0, 1.0]}
    assert drawn("kl", trained(metrics=metrics)).axes[0].get_ylim()[0] == 0
    assert drawn("reward", trained(metrics=metrics)).axes[0].get_ylim()[0] < -1


def test_time_by_phase_is_in_the_order_of_a_step():
    (panel,) = drawn("time-by-phase", trained()).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["rollout", "update", "own"]
    assert sorted(texts(panel)) == ["10 s (10%)", "30 s (30%)", "60 s (60%)"]
    assert panel.get_xlabel() == "time in all steps (s)"


def test_long_times_are_in_hours():
    (panel,) = drawn(
        "time-by-phase", trained("a", time_by_phase={"gen": 36_000, "data": 600}), trained("b")
    ).axes
    assert panel.get_xlabel() == "time in all steps (h)"
    assert {"10 h", "10 min"} < {*texts(panel)}


# --- labels of others ---


@pytest.mark.parametrize(("label", "expected"), HOSTILE.values(), ids=HOSTILE)
def test_labels_are_shown_as_text(label, expected, tmp_path):
    run = trained(label, evaluations=[evaluation(label, step, 50.0) for step in (0, 200)])
    run["time_by_phase"] = {label: 1.0}
    assert legend(drawn("figure-1", run)) == [expected]
    assert legend(drawn("figure-2", run))[-1] == expected
    assert drawn("time-by-phase", run).axes[0].get_yticklabels()[0].get_text() == expected
    assert len(names(tmp_path, run)) == 2 * len(FIGURES)


# --- looks ---


def test_figures_are_as_wide_as_a_column(tmp_path):
    names(tmp_path, trained())
    for name in FIGURES:
        assert Image.open(tmp_path / f"{name}.png").width == 990  # 3.3 inches of 300 dots


def test_many_bars_are_as_wide_as_a_page(tmp_path):
    names(tmp_path, *(evaluated(str(index), vsr=50.0) for index in range(12)))
    assert Image.open(tmp_path / "figure-2.png").width == 2070


def test_all_text_is_at_least_7_points():
    for name in FIGURES:
        figure = drawn(name, trained(), trained("b"))
        shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
        assert shown
        assert min(text.get_fontsize() for text in shown) >= 7


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_reaches_out_of_the_figure(name):
    long = "GRPO with a name so long that it must be cut"
    for runs in ([trained(long)], [trained(f"{place} {long}") for place in range(5)]):
        figure = drawn(name, *runs)
        figure.draw_without_rendering()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_runs_differ_without_colour():
    dashes = [str(line(place)["linestyle"]) for place in range(5)]
    hatches = [bar(place)["hatch"] for place in range(7)]
    assert len({*dashes}) == 5
    assert len({*hatches}) == 7


def test_no_two_of_35_runs_look_alike():
    assert len({str(line(place)) for place in range(35)}) == 35


def test_a_run_has_one_colour_everywhere():
    runs = [{"label": "without length"}, trained()]
    for name in FIGURES:
        figure = drawn(name, *runs)
        handle = figure.legends[0].legend_handles[-1]
        drawn_in = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
        assert same_color(to_hex(drawn_in), COLOURS[1])


# --- files ---


def test_the_same_runs_give_the_same_bytes(tmp_path):
    payload = {"runs": [trained("a"), trained("b")]}
    first = write_figures(tmp_path / "first", payload)
    with matplotlib.rc_context(
        {"font.size": 30, "lines.linewidth": 9, "svg.hashsalt": None, "text.usetex": True}
    ):
        second = write_figures(tmp_path / "second", payload)
        assert matplotlib.rcParams["font.size"] == 30
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_files_do_not_say_when_they_were_made(tmp_path):
    names(tmp_path, trained())
    assert set(Image.open(tmp_path / "kl.png").info) == {"dpi"}
    text = (tmp_path / "kl.svg").read_text()
    assert "dc:date" not in text
    assert "Matplotlib v" not in text


def test_an_svg_needs_no_font_and_nothing_from_elsewhere(tmp_path):
    names(tmp_path, trained())
    for path in tmp_path.glob("*.svg"):
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert "path" in tags
        assert not tags & {"text", "script", "image", "foreignObject"}


def test_figures_take_the_place_of_older_ones(tmp_path):
    names(tmp_path, trained("a"))
    before = (tmp_path / "kl.png").read_bytes()
    names(tmp_path, trained("b"))
    assert (tmp_path / "kl.png").read_bytes() != before


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(NotADirectoryError, match="figures: no folder can be made there"):
        write_figures(tmp_path / "figures", {"runs": [trained()]})


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    with pytest.raises(ValueError, match=r"pip install 'vtzero\[figures\]'"):
        write_figures(tmp_path / "folder", {"runs": [trained()]})
    assert not (tmp_path / "folder").exists()


def test_matplotlib_is_read_late_and_pyplot_never(tmp_path):
    program = (
        "import sys; from pathlib import Path; from vtzero.reports.figures import write_figures\n"
        "assert 'matplotlib' not in sys.modules\n"
        "run = {'metrics': {'step': [1, 2], 'kl': [0, 1]}}\n"
        f"assert write_figures(Path({str(tmp_path)!r}), {{'runs': [run]}})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
