"""The accuracy rewards: the paper's truth table row by row, its siblings', strict, lenient, odd inputs."""

import random
import threading

import pytest

from vtzero.rewards import symbolic
from vtzero.rewards.accuracy import (
    accuracy_lenient,
    accuracy_math_verify,
    accuracy_paper,
    accuracy_r1_v,
    accuracy_strict,
    lenient_accuracy,
    strict_accuracy,
)
from vtzero.rewards.runner import NamedReward, score
from vtzero.rewards.symbolic import SymbolicTimeoutError

# reference/original-systems.md §1.4, measured with the paper's math-verify 0.5.2
PAPER_TABLE = [
    ("<think>a seat</think>\n<answer>chair</answer>", "chair", 1.0),
    ("<answer>Chair</answer>", "chair", 0.0),
    ("<answer>the chair</answer>", "chair", 0.0),
    ("<answer>\nchair\n</answer>", "chair", 0.0),
    ("chair", "chair", 1.0),
    ("<answer>3</answer>", "3", 1.0),
    ("I see 3 objs, so <answer>three</answer>", "3", 0.0),
    ("There are 3 chairs, so the answer is 3", "3", 0.0),
    ("<answer>3 chairs</answer>", "3", 0.0),
    ("<answer>point B</answer>", "B", 1.0),
    ("<answer>(B)</answer>", "B", 1.0),
    ("<answer>A or B</answer>", "B", 1.0),
    ("<answer>left of 1</answer>", "sofa 1", 1.0),
]

ODD_INPUTS = [
    "",
    " \n\t ",
    "<answer>",
    "</answer>",
    "<answer></answer>",
    "</answer><answer>",
    "<answer><answer><answer>",
    "<think><answer></think></answer>",
    "x" * 10_000,
    "<answer>" * 1_000,
    "<answer>" + "y" * 10_000 + "</answer>",
    "$" * 10_000,
    "\\boxed{" * 1_000,
    "椅子の左 🪑 ١٢٣ ﬁ ß",
    "\x00\ud800",
]


def paper_accuracy(completion: str, answer: str) -> float:
    (reward,) = accuracy_paper([completion], [answer])
    return reward


@pytest.mark.parametrize(("completion", "answer", "reward"), PAPER_TABLE)
def test_paper_truth_table(completion: str, answer: str, reward: float) -> None:
    assert paper_accuracy(completion, answer) == reward


def test_paper_symbolic_path_credits_prose_where_the_answer_is_spaced() -> None:
    prose = "There are two rows, so the number of things is 3"
    assert paper_accuracy(prose, " 3 ") == 1.0
    assert paper_accuracy(prose, " 4 ") == 0.0
    assert paper_accuracy(prose, "3") == 0.0


def test_paper_takes_the_first_tagged_answer_and_its_last_letter() -> None:
    assert paper_accuracy("<answer>cup</answer><answer>chair</answer>", "cup") == 1.0
    assert paper_accuracy("<answer>cup</answer><answer>chair</answer>", "chair") == 0.0
    assert paper_accuracy("<answer>B or A</answer>", "B") == 0.0
    assert paper_accuracy("<answer>I</answer>", "J") == 0.0


def test_paper_scores_the_same_off_the_main_thread() -> None:
    completions = [completion for completion, _, _ in PAPER_TABLE] + ["So it is 3"]
    answers = [answer for _, answer, _ in PAPER_TABLE] + [" 3 "]
    scores: list[float] = []
    thread = threading.Thread(target=lambda: scores.extend(accuracy_paper(completions, answers)))
    thread.start()
    thread.join()
    assert scores == [reward for _, _, reward in PAPER_TABLE] + [1.0]


R1_V_TABLE = [
    # (completion, stored solution, reward)
    ("I count the cubes: one, two. So there are 3", "<answer> 3 </answer>", 1.0),
    ("I count 4 cubes and 3", "<answer> 3 </answer>", 1.0),
    ("I count 3 cubes and 4", "<answer> 3 </answer>", 0.0),
    ("So there are 3", "<answer>3</answer>", 0.0),
    ("<answer>3</answer>", "<answer>3</answer>", 1.0),
    ("<answer> 3 </answer>", "<answer>3</answer>", 1.0),
    ("<think>3\n4</think> <answer> 3.0 </answer>", "<answer> 3 </answer>", 1.0),
    ("<answer>\nchair\n</answer>", "<answer> chair </answer>", 0.0),
    ("<answer>Chair</answer>", "<answer> chair </answer>", 0.0),
    ("chair", "<answer> chair </answer>", 1.0),
    ("chair", "chair", 1.0),
    ("<answer>point B</answer>", "<answer> B </answer>", 0.0),
    ("so $x = \\frac{1}{2}$", "<think>halve it</think>\n\n<answer>$0.5$</answer>", 1.0),
    ("<answer>cup</answer><answer>chair</answer>", "<answer> cup </answer>", 1.0),
]


@pytest.mark.parametrize(("completion", "solution", "reward"), R1_V_TABLE)
def test_r1_v_reads_the_stored_solution(completion: str, solution: str, reward: float) -> None:
    answer = solution.replace("<answer>", "").replace("</answer>", "").strip()
    assert accuracy_r1_v([completion], [answer], [solution]) == [reward]


def test_r1_v_without_a_stored_solution_spaces_the_answer_as_r1_v_stores_it() -> None:
    completions = ["So there are 3", "So there are 4", "<answer>chair</answer>"]
    answers = ["3", "3", "chair"]
    assert accuracy_r1_v(completions, answers) == [1.0, 0.0, 1.0]
    # A mixture of sources has the column in some of its rows only.
    assert accuracy_r1_v(completions, answers, ["<answer>3</answer>", None, None]) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("<think>2 of 4</think><answer>1/2</answer>", "0.5", 1.0),
        ("<answer>$\\frac{2}{4}$</answer> or 7", "1/2", 1.0),
        ("<answer>3</answer> <answer>4</answer>", "3", 0.0),
        ("<answer>3</answer> <answer>4</answer>", "4", 1.0),
        ("<think>3</think> it is 4", "4", 1.0),
        ("<think>4</think> it is 3", "4", 0.0),
        ("the answer is 4.0", "4", 1.0),
        ("so <answer> 4", "4", 1.0),
        ("<answer>140°</answer>", "140°", 1.0),
        ("<answer>2,500</answer>", "2500", 1.0),
        ("<answer>The Chair.</answer>", "the chair", 1.0),
        ("the chair", "the chair", 0.0),
        ("<answer>chair 1</answer>", "sofa 1", 1.0),  # equal numbers: math-verify sees nothing else
        ("", "4", 0.0),
        ("<answer></answer>", "", 0.0),
    ],
)
def test_math_verify_compares_the_tagged_answer(completion: str, answer: str, reward: float) -> None:
    assert accuracy_math_verify([completion], [answer]) == [reward]


def test_numbers_in_any_form_equal_themselves_and_no_other() -> None:
    draw = random.Random(5)
    pairs = [(draw.randint(1, 99), draw.choice([1, 2, 4, 5, 8])) for _ in range(60)]
    said = [f"<answer>{top / bottom}</answer>" for top, bottom in pairs]
    tex = [f"${{\\frac{{{top}}}{{{bottom}}}}}$" for top, bottom in pairs]
    assert accuracy_math_verify(said, tex) == [1.0] * 60
    others = [f"{top + 1}/{bottom}" for top, bottom in pairs]
    assert accuracy_math_verify(said, others) == [0.0] * 60


# The power is computed in one instruction, which no exception can interrupt.
ENDLESS = "$9^{9^{9}}$"


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "TIME_LIMIT_SECONDS", 0.5)


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("reward", [accuracy_paper, accuracy_r1_v, accuracy_math_verify])
def test_what_takes_too_long_has_no_score_and_a_reason(reward) -> None:
    # As text the third is right, whatever math-verify would say.
    completions = ["so it is 5", f"so it is {ENDLESS}", f"<answer>{ENDLESS} 5</answer>"]
    answers = [" 5 ", " 5 ", f"{ENDLESS} 5"]
    scores = reward(completions, answers)
    assert (scores[0], scores[2]) == (1.0, 1.0)
    assert isinstance(scores[1], SymbolicTimeoutError)


@pytest.mark.usefixtures("half_a_second")
def test_the_runner_records_what_took_too_long() -> None:
    columns = {"answer": [" 5 ", " 5 "]}
    result = score([NamedReward("f", accuracy_paper)], ["so 5", f"so {ENDLESS}"], columns)
    assert result.total[0] == 1.0
    assert str(result.total[1]) == "nan"
    (failure,) = result.failures
    assert (failure.function_name, failure.sample_index) == ("f", 1)
    assert "longer than 0.5 s" in failure.reason


@pytest.mark.parametrize(
    "completion",
    [
        "<answer>chair</answer>",
        "<answer>\n  chair \n</answer>",
        "<answer>Chair.</answer>",
        "<think>table?</think> <answer>CHAIR</answer> thank you",
        "<answer>table</answer> no: <answer>chair</answer>",
        "<answer><answer>chair</answer></answer>",
        "<answer>never closed <answer>chair</answer>",
        "<answer>chair</answer> <answer>table",
    ],
)
def test_strict_accepts_the_last_closed_answer(completion: str) -> None:
    assert strict_accuracy(completion, "chair") == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        "chair",
        "<answer>chair",
        "chair</answer>",
        "<answer>the chair</answer>",
        "<answer>chairs</answer>",
        "<answer>chair</answer> no: <answer>table</answer>",
        "<answer>chair or table</answer>",
        "<answer>chair..</answer>",
        "< answer >chair</ answer >",
    ],
)
def test_strict_refuses_everything_else(completion: str) -> None:
    assert strict_accuracy(completion, "chair") == 0.0


def test_strict_compares_numbers_as_text() -> None:
    assert strict_accuracy("<answer>3</answer>", "3") == 1.0
    assert strict_accuracy("<answer> 3 </answer>", "3") == 1.0
    assert strict_accuracy("<answer>3</answer>", " 3 ") == 1.0
    for other in ("three", "3.0", "03", "1+2", "13", "3 chairs"):
        assert strict_accuracy(f"<answer>{other}</answer>", "3") == 0.0


@pytest.mark.parametrize("completion", ["", "<answer></answer>", "<answer>.</answer>", "anything"])
def test_an_empty_answer_is_never_right(completion: str) -> None:
    assert strict_accuracy(completion, "") == 0.0
    assert lenient_accuracy(completion, "") == 0.0
    assert lenient_accuracy(completion, "", ["", "anything"]) == 0.0


@pytest.mark.parametrize(
    ("completion", "stated"),
    [
        ("It is on the left, no, on the right", "right"),
        ("<think>right</think> it is on the LEFT side", "left"),
        ("<think>left, surely right</think>", "right"),
        ("<think>left, surely right</think>\n<answer>", "right"),
        ("the lamp is right <answer>left of</answer>", "left of"),
        ("leftover bright upright", None),
        ("", None),
    ],
)
def test_lenient_takes_the_last_option(completion: str, stated: str | None) -> None:
    options = ["left", "right", "left of"]
    assert [lenient_accuracy(completion, option, options) for option in options] == [
        float(option == stated) for option in options
    ]


def test_lenient_does_not_read_the_article_as_option_a() -> None:
    assert lenient_accuracy("The closer one is B, which is a lamp", "B", ["A", "B"]) == 1.0
    assert lenient_accuracy("The closer one is a lamp", "A", ["A", "B"]) == 0.0
    assert lenient_accuracy("The closer one is A", "A", ["A", "B"]) == 1.0
    assert lenient_accuracy("<answer>a</answer>", "A", ["A", "B"]) == 1.0


def test_lenient_does_not_find_numbers_inside_numbers() -> None:
    assert lenient_accuracy("about 3.5 metres", "5", ["3", "5"]) == 0.0
    assert lenient_accuracy("I count 13", "3", ["3", "5"]) == 0.0
    assert lenient_accuracy("I count 3.", "3", ["3", "5"]) == 1.0


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("so it must be the red chair", 1.0),
        ("so it must be the <answer>Red chair!</answer><|im_end|>", 1.0),
        ("red chair, not the table", 0.0),
        ("chair", 0.0),
        ("infrared chair", 0.0),
    ],
)
def test_lenient_without_options_reads_the_last_words(completion: str, reward: float) -> None:
    assert lenient_accuracy(completion, "red chair") == reward


def test_lenient_keeps_signs_and_fractions() -> None:
    assert lenient_accuracy("it is -3", "3") == 0.0
    assert lenient_accuracy("it is 2.3", "3") == 0.0
    assert lenient_accuracy("it is 2.3.", "2.3") == 1.0


@pytest.mark.parametrize("completion", ODD_INPUTS)
@pytest.mark.parametrize("answer", ["chair", " 3 ", "B", "", "."])
def test_odd_inputs_score_zero(completion: str, answer: str) -> None:
    options = ["chair", "3", "B", "(", "a+"]
    assert strict_accuracy(completion, answer) == 0.0
    assert lenient_accuracy(completion, answer, options) == 0.0
    assert lenient_accuracy(completion, answer) == 0.0
    # The paper gives an empty answer to whoever says nothing: its whole-text equality.
    said_nothing = completion.strip() in ("", "<answer></answer>")
    assert paper_accuracy(completion, answer) == float(answer == "" and said_nothing)
    assert accuracy_math_verify([completion], [answer]) == [0.0]


def test_strict_implies_lenient_on_random_texts() -> None:
    draw = random.Random(20250307)
    options = ["left", "right", "left of", "A"]
    answers = [f"<answer>{option}</answer>" for option in options]
    pieces = ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", ".", *options, *answers]
    right = 0
    for _ in range(3000):
        text, answer = "".join(draw.choices(pieces, k=draw.randint(1, 9))), draw.choice(options)
        strict = strict_accuracy(text, answer)
        right += int(strict)
        assert lenient_accuracy(text, answer, options) >= strict
        assert lenient_accuracy(text, answer) >= strict
    assert right > 100


def test_list_versions_score_each_completion_with_its_own_columns() -> None:
    completions = ["<answer>left</answer>", "it is right", "right"]
    answers = ["left", "right", "left"]
    columns = {"prompts": ["?"] * 3, "completion_lengths": [1, 2, 3]}
    assert accuracy_paper(completions, answers, **columns) == [1.0, 0.0, 0.0]
    assert accuracy_strict(completions, answers, **columns) == [1.0, 0.0, 0.0]
    assert accuracy_lenient(completions, answers, **columns) == [1.0, 1.0, 0.0]
    options = [["left", "right"], ["is", "right"], None]
    assert accuracy_lenient(completions, answers, options, **columns) == [1.0, 1.0, 0.0]


REWARDS = [accuracy_paper, accuracy_r1_v, accuracy_math_verify, accuracy_strict, accuracy_lenient]


@pytest.mark.parametrize("reward", REWARDS)
def test_columns_of_another_length_are_an_error(reward) -> None:
    with pytest.raises(ValueError, match="shorter"):
        reward(["one", "two"], ["one"])
