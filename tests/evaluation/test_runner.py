"""A tiny model answers a small benchmark: every item once, whatever the batch size; nothing lost silently."""

import json
from dataclasses import replace
from functools import partial
from threading import Event

import jax
import numpy as np
import pytest
from fixtures.published import (
    BLINK_COLUMNS,
    CV_BENCH_COLUMNS,
    GSM8K_COLUMNS,
    blink_row,
    cv_bench_row,
    picture,
    vsr_row,
    write_lines,
    write_parquet,
)
from fixtures.tiny_folder import make_tiny_folder
from flax import nnx
from PIL import Image

from vtzero.data.batches import Buckets, collate
from vtzero.data.example import Example
from vtzero.data.processor import Processor
from vtzero.data.prompts import prompt_template
from vtzero.evaluation import runner
from vtzero.evaluation.benchmarks import Benchmark, open_benchmark
from vtzero.evaluation.results import summary
from vtzero.evaluation.runner import evaluate, greedy, used_settings
from vtzero.evaluation.shapes import benchmark_buckets
from vtzero.sampling.decode import DecodeSettings
from vtzero.sampling.parameters import SamplingParameters
from vtzero.sampling.sampler import Sampler
from vtzero.training.huggingface import load_model

BUCKETS = Buckets(prompt_length=240, patches=48)
LENGTH = 8
TEMPLATE = prompt_template("r1_zero_base")
OPENING = "<answer> red </answer>"
# Seven items: the image of number 1 is broken, number 6 is too long for the bucket, the others can be asked.
ANSWERS = ("red", "red", "green", "red", "blue", "red", "red")
ASKED = ["item 0", "item 2", "item 3", "item 4", "item 5"]


class Setup:
    """A tiny model, its processor and its samplers, each compiled once for its batch size."""

    def __init__(self, folder):
        self.processor = Processor.from_folder(folder)
        self.graphdef, state = load_model(folder)
        self.pieces = (state,)
        self.samplers = {}

    def new_sampler(self, stop_ids=()):
        settings = DecodeSettings(LENGTH, (*self.processor.stop_ids, *stop_ids), self.processor.pad_id)
        return Sampler(partial(nnx.merge, self.graphdef), settings)

    def sampler(self, batch_size):
        if batch_size not in self.samplers:
            self.samplers[batch_size] = self.new_sampler()
        return self.samplers[batch_size]

    def evaluate(self, benchmark, batch_size=2, **changed):
        settings = {
            "sampler": self.sampler(batch_size),
            "pieces": self.pieces,
            "processor": self.processor,
            "template": TEMPLATE,
            "buckets": BUCKETS,
            "batch_size": batch_size,
        }
        return evaluate(benchmark, **(settings | changed))

    def alone(self, example, template):
        """The ids that the model draws greedily after one prompt, without the runner."""
        prompt = self.processor.prepare(example, template)
        arrays = collate([prompt], BUCKETS, self.processor.pad_id)
        parameters = SamplingParameters(temperature=0.0, banned_ids=self.processor.config.vision_token_ids)
        keys = jax.random.split(jax.random.key(1), (1, 1))
        drawn = self.sampler(1)(self.pieces, arrays, keys, parameters)
        return np.asarray(drawn.ids)[0, 0, : int(drawn.lengths[0, 0])].tolist()


@pytest.fixture(scope="module")
def setup(tmp_path_factory):
    return Setup(make_tiny_folder(tmp_path_factory.mktemp("tiny"), seed=5))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    lines = []
    for number, answer in enumerate(ANSWERS):
        pixels = random.integers(0, 256, (50 + 10 * number, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {
            "id": f"item {number}",
            "question": f"Which colour is the cube, number {number}?" * (40 if number == 6 else 1),
            "image": f"{number}.png",
            "options": ["red", "green", "blue"],
            "answer": answer,
            "task": "Colour" if number < 4 else "Number",
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "1.png").write_bytes(b"no image")
    (folder / "colours.jsonl").write_text("".join(lines))
    return open_benchmark(folder / "colours.jsonl")


@pytest.fixture(scope="module")
def plain(setup, benchmark):
    return setup.evaluate(benchmark)


def test_each_item_gets_what_the_model_says_to_it_alone(setup, benchmark, plain):
    assert [item.id for item in plain.items] == ASKED
    assert len({item.output for item in plain.items}) >= 4
    for item in plain.items:
        example = benchmark.examples[int(item.id[-1])]
        ids = setup.alone(example, TEMPLATE)
        assert item.output == setup.processor.decode(ids)
        assert item.tokens == len(ids)
        assert item.prompt == setup.processor.prepare(example, TEMPLATE).text
        assert (item.task, item.choices, item.answer) == (example.task, example.options, example.answer)


def test_rows_that_cannot_be_asked_are_reported_with_their_reason(plain):
    broken, long = plain.rejected
    assert broken.id == "item 1"
    assert "image" in broken.reason
    assert long.id == "item 6"
    assert "the bucket holds 240" in long.reason


def test_the_batch_size_changes_nothing(setup, benchmark, plain):
    result = setup.evaluate(benchmark, batch_size=1)
    assert result.items == plain.items
    assert [rejected.id for rejected in result.rejected] == ["item 1", "item 6"]


def test_sampled_outputs_depend_on_the_seed_and_not_on_the_batch_size(setup, benchmark):
    sampled = SamplingParameters(temperature=1.0, banned_ids=setup.processor.config.vision_token_ids)
    one, two, other = (
        setup.evaluate(benchmark, size, parameters=sampled, seed=seed)
        for size, seed in ((1, 5), (2, 5), (2, 6))
    )
    assert one.items == two.items
    assert all(a.output != b.output for a, b in zip(two.items, other.items, strict=True))


class Watched(Sampler):
    """A sampler that tells, before each call, the tokens that answers may have."""

    def __init__(self, sampler, before):
        super().__init__(sampler._merge, sampler.settings)
        self._program, self._before = sampler._program, before

    def __call__(self, *arguments):
        self._before(arguments[4])
        return super().__call__(*arguments)


@pytest.mark.parametrize("batch_size", [2, 5])
def test_answers_that_are_cut_off_are_asked_again_and_say_the_same(setup, benchmark, monkeypatch, batch_size):
    third = setup.processor.tokenizer.encode(setup.evaluate(benchmark).items[0].output)[2]
    sampler, asked = setup.new_sampler(stop_ids=(third,)), []
    whole = setup.evaluate(benchmark, batch_size, sampler=sampler)
    monkeypatch.setattr(runner, "answer_limit", lambda known, **_: 3)
    again = setup.evaluate(benchmark, batch_size, sampler=Watched(sampler, asked.append))
    assert again.items == whole.items
    assert {item.tokens > 3 for item in whole.items} == {True, False}
    # Twice as many batches at most; those asked again are asked to the end.
    assert asked.count(3) == -(-len(ASKED) // batch_size)
    assert asked.count(LENGTH) == -(-sum(item.tokens > 3 for item in whole.items) // batch_size)
    assert sampler.compilations == 1


def test_a_last_batch_that_is_not_full_compiles_nothing_anew(setup, benchmark, plain):
    assert len(plain.items) % 2 == 1
    assert setup.sampler(2).compilations == 1


def test_a_stop_token_ends_an_output_and_is_counted(setup, benchmark, plain):
    third = setup.alone(benchmark.examples[0], TEMPLATE)[2]
    result = setup.evaluate(benchmark, sampler=setup.new_sampler(stop_ids=(third,)))
    first = result.items[0]
    assert first.terminated
    assert first.tokens <= 3
    assert plain.items[0].output.startswith(first.output)
    assert not plain.items[0].terminated
    assert plain.items[0].tokens == LENGTH


@pytest.mark.parametrize("name", ["r1_zero_base", "instruct_reason"])
def test_a_forced_opening_is_read_by_the_model_and_scored_with_its_words(setup, benchmark, name):
    template = prompt_template(name)
    result = setup.evaluate(benchmark, template=template, forced_opening=OPENING)
    processor, item = setup.processor, result.items[0]
    example = benchmark.examples[0]
    assert item.prompt == processor.prepare(example, template).text
    assert item.output.startswith(OPENING)
    assert [item.correct for item in result.items] == [item.answer == "red" for item in result.items]
    assert sum(item.correct for item in result.items) == 3


def test_after_a_forced_opening_the_model_says_what_it_says_to_the_longer_prompt(setup, benchmark):
    result = setup.evaluate(benchmark, forced_opening=OPENING)
    longer = replace(TEMPLATE, text=TEMPLATE.text + OPENING)
    for item in result.items:
        ids = setup.alone(benchmark.examples[int(item.id[-1])], longer)
        assert item.output == OPENING + setup.processor.decode(ids)
        assert item.tokens == len(ids)


def test_open_questions_are_scored_by_their_text(setup):
    examples = [Example("1", "How many cubes?", "red"), Example("2", "How many cubes?", "re")]
    result = setup.evaluate(Benchmark("open", examples), forced_opening=OPENING)
    assert [(item.choices, item.correct) for item in result.items] == [((), True), ((), False)]


def test_an_answer_among_no_choices_is_set_aside(setup):
    wrong = Example("1", "Which?", "up", options=("left", "right"))
    result = setup.evaluate(Benchmark("wrong", [wrong]))
    assert result.items == []
    assert [rejected.id for rejected in result.rejected] == ["1"]
    assert "'up' names none of its choices" in result.rejected[0].reason


def test_progress_counts_what_is_set_aside_too(setup, benchmark):
    seen = []
    setup.evaluate(benchmark, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (5, 7), (7, 7)]


def test_the_next_batch_is_prepared_while_the_device_works(setup, benchmark):
    third_asked = Event()

    class Telling(Processor):
        def prepare(self, example, template):
            if example.id == "item 3":
                third_asked.set()
            return super().prepare(example, template)

    old = setup.processor
    told = Telling(old.tokenizer, old.image_processor, old.config, stop_ids=old.stop_ids)
    waited = []
    sampler = Watched(setup.sampler(2), lambda _: waited.append(third_asked.wait(timeout=20)))
    result = setup.evaluate(benchmark, processor=told, sampler=sampler)
    assert waited
    assert all(waited)
    assert [item.id for item in result.items] == ASKED


def test_no_batch_is_refused(setup, benchmark):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        setup.evaluate(benchmark, batch_size=0)


def sized(setup, benchmark, prompt_length=340):
    return benchmark_buckets(benchmark, setup.processor, prompt_length)


def test_a_named_benchmark_is_asked_in_its_words_and_judged_by_the_paper_too(setup, tmp_path):
    rows = [cv_bench_row(number, answer="(B)" if number else "(A)") for number in range(3)]
    path = write_parquet(tmp_path / "test.parquet", CV_BENCH_COLUMNS, rows)
    benchmark = open_benchmark(f"cv_bench={path}")
    result = setup.evaluate(benchmark, buckets=sized(setup, benchmark), forced_opening="<answer>(B)</answer>")
    assert [item.correct for item in result.items] == [False, True, True]
    assert [item.correct_paper for item in result.items] == [False, True, True]
    assert [item.source for item in result.items] == ["ADE20K", "COCO", "ADE20K"]
    assert [item.index for item in result.items] == [0, 1, 2]
    assert rows[0]["prompt"] in result.items[0].prompt
    assert result.items[0].question == rows[0]["question"]


def test_a_missing_coco_image_is_set_aside_and_in_no_figure(setup, tmp_path):
    (tmp_path / "1.jpg").write_bytes(picture(1, kind="JPEG"))
    path = write_lines(tmp_path / "test.jsonl", [vsr_row("1.jpg"), vsr_row("2.jpg"), vsr_row("1.jpg", 0)])
    benchmark = open_benchmark(f"vsr={path}")
    buckets = sized(setup, benchmark)
    result = setup.evaluate(benchmark, buckets=buckets, forced_opening="<answer>True</answer>")
    assert [(item.id, item.correct) for item in result.items] == [("vsr-0", True), ("vsr-2", False)]
    assert [rejected.id for rejected in result.rejected] == ["vsr-1"]
    figures = summary(result)
    assert (figures["n"], figures["accuracy"], figures["rejected"]) == (2, 50.0, 1)


def test_a_text_benchmark_needs_no_patches(setup, tmp_path):
    rows = [{"question": f"What is {n} + 1?", "answer": f"so\n#### {n + 1}"} for n in (3, 4)]
    path = write_parquet(tmp_path / "test.parquet", GSM8K_COLUMNS, rows)
    benchmark = open_benchmark(f"gsm8k={path}")
    buckets = sized(setup, benchmark)
    assert buckets.patches == 0
    opening = "<answer>$\\frac{8}{2}$</answer>"
    result = setup.evaluate(benchmark, buckets=buckets, forced_opening=opening, sampler=setup.new_sampler())
    assert [item.correct for item in result.items] == [True, False]


def test_several_images_an_item_fit_one_program(setup, tmp_path):
    rows = [blink_row("Multi", number, images=1 + number % 2) for number in range(3)]
    path = write_parquet(tmp_path / "multi.parquet", BLINK_COLUMNS, rows)
    benchmark = open_benchmark(path)
    assert benchmark.images == 2
    buckets = sized(setup, benchmark)
    assert buckets.patches == 2 * setup.processor.max_patches(1)
    sampler = setup.new_sampler()
    result = setup.evaluate(benchmark, buckets=buckets, sampler=sampler)
    assert [item.prompt.count("<|image_pad|>") for item in result.items] == [1, 2, 1]
    assert result.rejected == []
    assert sampler.compilations == 1


def test_a_generous_pixel_limit_makes_no_larger_batch_than_the_images_need(tmp_path):
    folder = make_tiny_folder(tmp_path / "model", max_pixels=12_845_056)
    processor = Processor.from_folder(folder)
    (tmp_path / "1.jpg").write_bytes(picture(1, size=(300, 200), kind="JPEG"))
    path = write_lines(tmp_path / "test.jsonl", [vsr_row("1.jpg"), vsr_row("none.jpg")])
    benchmark = open_benchmark(f"vsr={path}")
    buckets = benchmark_buckets(benchmark, processor, 1024)
    prompt = processor.prepare(benchmark.examples[0], TEMPLATE)
    assert buckets == Buckets(1024, len(prompt.patches))


def test_an_interrupted_evaluation_ends_as_an_uninterrupted_one(setup, benchmark, tmp_path):
    batches = []
    whole = setup.evaluate(benchmark, on_batch=batches.append)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    asked = []
    rest = setup.evaluate(benchmark, done=batches[0], on_batch=asked.extend)
    assert asked == whole.items[2:]
    assert (rest.items, rest.rejected) == (whole.items, whole.rejected)


def test_a_repetition_penalty_changes_what_is_said_and_is_written_down(setup, benchmark):
    parameters = greedy(setup.processor, 3.0)
    result = setup.evaluate(benchmark, parameters=parameters, sampler=setup.new_sampler())
    plain = setup.evaluate(benchmark)
    assert [item.output for item in result.items] != [item.output for item in plain.items]
    used = used_settings(
        benchmark,
        processor=setup.processor,
        template=TEMPLATE,
        prompt_length=240,
        completion_length=LENGTH,
        parameters=parameters,
    )
    assert used == {
        "items": 7,
        "scoring": "choices",
        "prompt_template": "r1_zero_base",
        "opening": "",
        "min_pixels": 28 * 28,
        "max_pixels": 28 * 28 * 16,
        "max_prompt_length": 240,
        "max_completion_length": LENGTH,
        "temperature": 0.0,
        "repetition_penalty": 3.0,
    }
