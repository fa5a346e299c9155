"""A report's page as a person uses it, in a browser without a network: by click, by key, on a phone."""

import random
import re
import time

import pytest
from fixtures.browser import chromium, opened, why_not
from fixtures.report_payload import (
    ANSWERS,
    GROUPS,
    HOSTILE,
    LONG,
    bare_run,
    chunks_of,
    groups_of,
    one_group,
    one_run,
    picture,
    two_runs,
)

from vtzero.reports.page import write_page

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"needs a browser: {why_not()}")

ROWS = 3 * GROUPS * ANSWERS
PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("two"), *two_runs())


def page_of(folder, payload, chunks=()):
    path = folder / "report.html"
    write_page(path, payload, chunks)
    return path


@pytest.fixture
def page(browser, two):
    with opened(browser, two) as shown:
        yield shown.page


def completions(page):
    """The browser over completions, when it has its index."""
    page.locator("#completions").scroll_into_view_if_needed()
    page.get_by_text("completions match").wait_for()
    return page.locator("#completions")


def matches(page, rows, groups):
    """Waits until that many completions match in that many groups."""
    word = "group" if groups == 1 else "groups"
    page.get_by_text(f"{rows} of {ROWS} completions match, in {groups} {word}.").wait_for()
    assert page.locator(".groups a").count() == groups


def test_the_headline_says_before_and_after(page):
    card = page.locator(".card").first.inner_text()
    assert "GRPO" in card
    assert "10.0 → 72.5 %" in card
    assert "95 %: 64.5–80.5" in card
    assert "12.0 → 43.3 tokens" in card
    assert "1 min 15 s" in card
    assert "4,065" in card


def test_every_section_is_there_and_no_part_of_one_failed(page):
    names = page.locator("h2").all_inner_texts()
    assert names == page.locator("#sections a").all_inner_texts()
    assert len(names) == 7
    assert page.get_by_text("cannot be shown").count() == 0


def test_filters_work_by_click(page):
    completions(page)
    matches(page, ROWS, 9)
    page.get_by_role("radio", name="right").check(force=True)
    matches(page, 9, 9)
    page.get_by_role("radio", name="wrong").check(force=True)
    matches(page, 27, 9)
    page.get_by_role("checkbox", name="truncated").check()
    matches(page, 9, 9)
    page.get_by_role("checkbox", name="aha words").check()
    page.get_by_text("No completion matches this filter.").wait_for()
    page.get_by_role("checkbox", name="truncated").uncheck()
    matches(page, 9, 9)
    page.get_by_label("Task", exact=True).select_option("Depth")
    matches(page, 3, 3)


def test_steps_are_chosen_by_two_thumbs(page):
    completions(page)
    first, last = page.get_by_label("First step"), page.get_by_label("Last step")
    first.focus()
    page.keyboard.press("ArrowRight")
    matches(page, 24, 6)
    assert first.get_attribute("aria-valuetext") == "step 20"
    last.focus()
    page.keyboard.press("ArrowLeft")
    matches(page, 12, 3)
    assert "Steps 20–20" in page.locator(".steps").inner_text()


def test_text_is_found_in_answers_and_in_questions(page):
    completions(page)
    box = page.get_by_label("Text to find")
    box.fill("STEP 20, group 1: wait")
    box.press("Enter")
    matches(page, 1, 1)
    page.locator(".groups a").click()
    page.locator("mark.found").first.wait_for()
    assert page.locator("mark.found").all_inner_texts() == ["Step 20, group 1: ", "Wait"]
    page.get_by_role("link", name="All groups").click()
    box.fill("in picture 2")
    page.get_by_role("button", name="Find").click()
    matches(page, 12, 3)


def test_a_search_can_be_cancelled(browser, tmp_path):
    steps = range(1, 301)
    chunks = [*chunks_of(0, groups_of(steps)), picture()]
    path = page_of(tmp_path, {"runs": [one_run(0, steps)]}, chunks)
    with opened(browser, path) as shown:
        completions(shown.page)
        shown.page.evaluate(
            """async () => {
                document.querySelector(".find input").value = "no such words";
                document.querySelector(".filters").requestSubmit();
                const cancel = () => document.querySelector(".found button");
                while (!cancel()) await new Promise((done) => setTimeout(done, 0));
                cancel().click();
            }"""
        )
        shown.page.get_by_text("Search cancelled").wait_for()


def test_a_group_is_shown_side_by_side(page):
    completions(page)
    page.locator(".groups a").nth(3).click()
    page.get_by_role("heading", name="GRPO · Step 20, group 1").wait_for()
    answers = page.locator(".answer")
    assert answers.count() == ANSWERS
    tops = {round(answers.nth(i).bounding_box()["y"]) for i in range(ANSWERS)}
    assert len(tops) == 1
    wrong, right, truncated, aha = answers.all_inner_texts()
    assert "✗ wrong" in wrong
    assert "✓ right" in right
    assert re.search(r"accuracy_strict\s+1\.00", right)
    assert re.search(r"format_paper\s+–", right)
    assert "+1.50" in right
    assert "20 tokens" in right
    assert "truncated" in truncated
    assert "−0.50" in truncated
    assert "aha × 2" in aha
    assert page.locator("mark.aha").all_inner_texts() == ["Wait", "check"]
    assert (
        page.locator(".picture img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 84
    )


def test_the_prompt_is_folded(page):
    completions(page)
    page.locator(".groups a").first.click()
    prompt = page.get_by_text("Assistant:")
    prompt.wait_for(state="attached")
    assert not prompt.is_visible()
    page.get_by_text("Full prompt").click()
    assert prompt.is_visible()


def test_groups_follow_each_other_by_click_and_by_key(page):
    completions(page)
    page.get_by_label("Task", exact=True).select_option("Depth")
    matches(page, 12, 3)
    page.locator(".groups a").first.click()
    page.get_by_role("heading", name="Step 10, group 2").wait_for()
    page.get_by_role("link", name="Next").click()
    page.get_by_role("heading", name="Step 20, group 2").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Step 30, group 2").wait_for()
    assert page.locator('.moves [aria-label="Next"]').get_attribute("aria-disabled") == "true"
    page.go_back()
    page.get_by_role("heading", name="Step 20, group 2").wait_for()


def test_a_group_has_an_address(browser, two):
    with opened(browser, two, "#run=2&step=30&group=3") as shown:
        shown.page.get_by_role("heading", name="SFT · Step 30, group 3").wait_for()
        assert shown.page.locator(".answer").count() == ANSWERS
        shown.page.get_by_role("link", name="All groups").click()
        matches(shown.page, ROWS, 9)
        assert shown.page.get_by_label("Run", exact=True).input_value() == "1"


def test_an_address_of_nothing_is_a_sentence(browser, two):
    with opened(browser, two, "#run=1&step=11&group=1") as shown:
        shown.page.get_by_text("step 11, group 1 is not in this page").wait_for()


def test_a_question_is_compared_with_itself_elsewhere(page):
    completions(page)
    page.locator(".groups a").first.click()
    chosen = page.get_by_label("Compare with")
    chosen.wait_for()
    assert chosen.locator("option").all_inner_texts()[1:] == [
        "GRPO · step 20",
        "GRPO · step 30",
        "SFT · step 10",
        "SFT · step 20",
        "SFT · step 30",
    ]
    chosen.select_option("SFT · step 30")
    both = page.locator(".compared > section")
    both.nth(1).wait_for()
    assert both.locator("h4").all_inner_texts() == ["GRPO · step 10", "SFT · step 30"]
    assert "Step 10, group 0" in both.nth(0).inner_text()
    assert "Step 30, group 0" in both.nth(1).inner_text()
    assert page.evaluate("location.hash") == "#run=1&step=10&group=1&with=2.30.1"


def test_hostile_text_is_text(browser, two):
    with opened(browser, two, "#run=1&step=10&group=2") as shown:
        page = shown.page
        answer = page.locator(".answer").first
        answer.wait_for()
        said = answer.locator(".said").text_content()
        assert "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>" in said
        assert "<!-- \\x1b[31mred\\x1b[0m U+202Eright to leftU+202C bell \\x07 lineU+2028end" in said
        assert " 🍕👩‍👩‍👧 नमस्ते U+D800" in said
        assert page.evaluate("window.hacked") is None
        assert answer.locator("script, img").count() == 0
        assert answer.locator(".hidden-character").first.inner_text() == "\\x1b"
        assert answer.locator("mark").count() == 0
        assert answer.locator(".said").evaluate("said => getComputedStyle(said).unicodeBidi") == "isolate"


def test_a_long_answer_is_folded(browser, two):
    with opened(browser, two, "#run=1&step=10&group=2") as shown:
        answer = shown.page.locator(".answer").nth(1)
        answer.wait_for()
        assert len(answer.locator(".said").inner_text()) < 1000
        answer.get_by_role("button", name="show all (10,000 characters)").click()
        assert answer.locator(".said").inner_text() == LONG


def test_hostile_names_are_text_everywhere(browser, tmp_path):
    hostile = {
        "name": HOSTILE,
        "label": HOSTILE,
        "warnings": [HOSTILE],
        "recipe": {HOSTILE: HOSTILE},
        "environment": {HOSTILE: HOSTILE},
        "time_by_phase": {HOSTILE: 3.0},
        "metrics": {"step": [1, 2], "reward": [0, 1], f"rewards/{HOSTILE}/mean": [1, 2], HOSTILE: [1, 2]},
        "evaluations": [{"benchmark": HOSTILE, "step": 0, "n": 1, "accuracy": 5.0, "tasks": {HOSTILE: {}}}],
    }
    path = page_of(tmp_path, {"version": HOSTILE, "runs": [one_run(0, completions=None, **hostile)]})
    with opened(browser, path, **PHONE) as shown:
        assert shown.page.evaluate("window.hacked") is None
        assert shown.page.locator("#main script, #main img").count() == 0
        text = shown.page.locator("body").inner_text()
        assert "window.hacked" in text
        assert not set("\x1b\u202e\u2028") & set(text)
        assert width(shown.page) == 360


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


def test_the_page_has_both_lights(browser, two):
    def ground(page):
        red = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return "light" if int(re.findall(r"\d+", red)[0]) > 128 else "dark"

    with opened(browser, two, color_scheme="dark") as shown:
        assert ground(shown.page) == "dark"
        shown.page.get_by_role("button", name="Show the page light").click()
        assert ground(shown.page) == "light"
    with opened(browser, two, color_scheme="light") as shown:
        assert ground(shown.page) == "light"
        shown.page.get_by_role("button", name="Show the page dark").click()
        assert ground(shown.page) == "dark"


def test_a_phone_scrolls_one_way(browser, two):
    with opened(browser, two, **PHONE) as shown:
        assert width(shown.page) == 360
        completions(shown.page)
        assert width(shown.page) == 360
        shown.go("#run=1&step=10&group=2&with=2.10.2")
        shown.page.locator(".answer").first.wait_for()
        assert width(shown.page) == 360
        lefts = {answer.bounding_box()["x"] for answer in shown.page.locator(".answer").all()}
        assert len(lefts) == 1


def test_a_run_with_nothing_says_so(browser, tmp_path):
    path = page_of(tmp_path, {"version": "0.1.0", "runs": [bare_run()]})
    with opened(browser, path) as shown:
        text = shown.page.locator("#main").inner_text()
        assert "This run has no evaluation yet: set eval_data." in text
        assert "No run has logged a metric yet" in text
        assert "No run has kept its completions: set log_completions." in text
        assert "not finished" in text
        for wrong in ("undefined", "NaN", "null", "cannot be shown"):
            assert wrong not in text


def test_a_page_of_no_run_says_so(browser, tmp_path):
    with opened(browser, page_of(tmp_path, {"version": "0.1.0", "runs": []})) as shown:
        shown.page.get_by_text("This page was made of no run.").wait_for()


def test_a_bare_run_beside_a_full_one(browser, tmp_path):
    payload = {"version": "0.1.0", "runs": [bare_run(), one_run(1)]}
    path = page_of(tmp_path, payload, [*chunks_of(1, groups_of()), picture()])
    with opened(browser, path) as shown:
        completions(shown.page)
        matches(shown.page, ROWS, 9)
        shown.page.locator(".groups a").first.click()
        shown.page.get_by_role("heading", name="Step 10, group 1").wait_for()


def test_a_file_that_was_cut_short_says_so(browser, two, tmp_path):
    text = two.read_text(encoding="utf-8")
    short = tmp_path / "report.html"
    short.write_text(text[: text.index('<script type="text/plain" id="i0"')], encoding="utf-8")
    with opened(browser, short) as shown:
        shown.page.locator("#completions").scroll_into_view_if_needed()
        shown.page.get_by_text("the file may have been cut short").wait_for()


def test_completions_without_lengths_or_verdicts(browser, tmp_path):
    group = one_group(10, 0, image=None)
    for completion in group["completions"]:
        completion |= {"length": None}
    chunks = list(chunks_of(0, {10: [group]}))
    path = page_of(tmp_path, {"runs": [one_run(0, (10,))]}, chunks)
    with opened(browser, path, "#run=1&step=10&group=1") as shown:
        shown.page.locator(".answer").first.wait_for()
        assert "tokens" not in shown.page.locator(".group").inner_text()
        assert shown.page.locator(".picture").count() == 0


def paths(page, title):
    chart = page.locator(".chart", has_text=title).first
    chart.locator("path.line").first.wait_for(state="attached")
    return chart.locator("path.line").evaluate_all("lines => lines.map(line => line.getAttribute('d'))")


def test_smoothing_moves_the_strong_line(page):
    before = paths(page, "KL to the reference")
    page.get_by_label("Smoothing").fill("0.9")
    page.locator("#curves path.raw").first.wait_for(state="attached")
    assert paths(page, "KL to the reference") != before
    page.get_by_label("Smoothing").fill("0")
    page.wait_for_function("() => !document.querySelector('#curves path.raw')")
    assert paths(page, "KL to the reference") == before


def test_legends_take_a_run_out(page):
    assert len(paths(page, "Reward")) == 2
    page.locator("#legend").get_by_role("button", name="SFT").click()
    assert len(paths(page, "Reward")) == 1
    assert len(paths(page, "Accuracy on scenes")) == 1
    page.locator("#legend").get_by_role("button", name="SFT").click()
    page.locator(".chart", has_text="Reward").first.get_by_role("button", name="GRPO").click()
    assert len(paths(page, "Reward")) == 1
    assert len(paths(page, "Accuracy on scenes")) == 2


def test_a_scale_can_be_logarithmic(page):
    chart = page.locator(".chart", has_text="KL to the reference").first
    log = chart.get_by_role("button", name="log")
    assert log.get_attribute("aria-pressed") == "true"
    before = paths(page, "KL to the reference")
    log.click()
    assert log.get_attribute("aria-pressed") == "false"
    assert paths(page, "KL to the reference") != before


def test_every_other_metric_can_be_added(page):
    count = page.locator("#curves .chart").count()
    page.get_by_label("Add a curve").select_option("learning_rate")
    assert page.locator("#curves .chart").count() == count + 1
    page.get_by_role("button", name="Remove Learning rate").click()
    assert page.locator("#curves .chart").count() == count


def test_a_chart_is_read_by_pointer_and_by_key(page):
    page.get_by_label("Smoothing").fill("0")
    chart = page.locator(".chart", has_text="Reward").first
    chart.locator(".plot").scroll_into_view_if_needed()
    box = chart.locator(".plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 11, box["y"] + 80)
    chart.get_by_text("step 30").wait_for()
    chart.locator(".plot").focus()
    page.keyboard.press("Home")
    chart.get_by_text("step 1").first.wait_for()
    assert "0.0667" in chart.locator(".chart-legend").inner_text()
    page.keyboard.press("ArrowRight")
    chart.get_by_text("step 2").first.wait_for()


def test_figures_follow_the_scoring(page):
    assert "72.5" in page.locator("#accuracy .bars").first.inner_text()
    page.get_by_label("Scored").select_option("lenient")
    assert "77.5" in page.locator("#accuracy .bars").first.inner_text()
    row = page.locator("#results tbody tr").nth(1).inner_text()
    assert "72.5" in row
    page.get_by_label("every evaluation").check()
    assert page.locator("#results tbody tr").count() == 6


def test_settings_that_differ_come_first(page):
    rows = page.locator("#recipe table").first.locator("tbody tr").all_inner_texts()
    assert len(rows) == 1
    assert re.match(r"seed\s*differs\s+0\s+1", rows[0])


def test_it_can_be_printed(page):
    assert page.pdf().startswith(b"%PDF")


@pytest.mark.slow
def test_thirty_megabytes_open_in_three_seconds(browser, tmp_path):
    steps, asked = range(1, 1501), 8
    draws = random.Random(0)
    words = ["".join(draws.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(20_000)]

    def groups(step):
        texts = [{place: " ".join(draws.choices(words, k=46)) for place in range(8)} for _ in range(asked)]
        return [eight(one_group(step, number, texts[number])) for number in range(asked)]

    def eight(group):
        twice = [dict(completion) for completion in group["completions"]]
        for place, completion in enumerate(twice):
            completion["text"] = " ".join(draws.choices(words, k=46 + place))
        return group | {"completions": group["completions"] + twice}

    chunks = chunks_of(0, {step: groups(step) for step in steps})
    metrics = {f"metric/{n}": [draws.random() for _ in steps] for n in range(60)}
    metrics |= {name: [draws.random() for _ in steps] for name in ("reward", "kl", "entropy", "grad_norm")}
    run = one_run(0, steps, metrics={"step": list(steps), **metrics})
    path = page_of(tmp_path, {"version": "0.1.0", "runs": [run]}, [*chunks, picture()])
    assert 25e6 < path.stat().st_size < 35e6
    began = time.perf_counter()
    with opened(browser, path) as shown:
        shown.page.locator("#curves .chart path.line").first.wait_for(state="attached")
        seconds = time.perf_counter() - began
        completions(shown.page)
        listed = time.perf_counter() - began
        size = path.stat().st_size / 1e6
        print(f"{size:.1f} MB: open in {seconds:.2f} s, completions listed in {listed:.2f} s")
        shown.page.get_by_text("96,000 of 96,000 completions match, in 12,000 groups.").wait_for()
        shown.page.get_by_label("Text to find").fill("picture 7")
        began = time.perf_counter()
        shown.page.get_by_role("button", name="Find").click()
        shown.page.get_by_text("12,000 of 96,000 completions match, in 1,500 groups.").wait_for(
            timeout=60_000
        )
        print(f"all of it searched in {time.perf_counter() - began:.1f} s")
    assert seconds < 3


@pytest.mark.parametrize("digits", [0, 1, 2])
def test_numbers_are_rounded_as_in_the_terminal(page, digits):
    values = [count / 400 for count in range(40_001)] + [count / 2638 for count in range(2639)]
    shown = page.evaluate(f"(values) => values.map((value) => Numbers.fixed(value, {digits}))", values)
    assert shown == [f"{value:.{digits}f}" for value in values]


def test_a_model_that_was_only_evaluated_is_no_base(browser, tmp_path):
    trained, *evaluated = one_run(0), bare_run() | {"label": "instruct"}, bare_run() | {"label": "SFT"}
    last = trained["evaluations"][-1]
    for number, run in enumerate(evaluated):
        run["evaluations"] = [{**last, "step": 0, "accuracy": 50.0 + number}]
    path = page_of(tmp_path, {"version": "1", "runs": [trained, *evaluated]})
    rows = f"Runs.rows(Runs.read(payload), {last['benchmark']!r}).map((row) => row.name)"
    with opened(browser, path) as shown:
        text = "document.getElementById('payload').textContent"
        names = shown.page.evaluate(f"() => {{ const payload = JSON.parse({text}); return {rows}; }}")
    assert names == ["base (step 0)", "GRPO", "instruct", "SFT"]
