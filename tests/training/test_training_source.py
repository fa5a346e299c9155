"""The keys of a config that say what is trained on reach the sources."""

import pytest
from fixtures.data_files import gsm8k_row, sat_row, write_published

from vtzero.config import build_config
from vtzero.data.mixture import Mixture, counts_of
from vtzero.training.setup import training_source


@pytest.fixture
def sat(tmp_path):
    rows = [sat_row(i, images=1 + i % 2, question_type=("other", "goal_aim")[i % 3 == 0]) for i in range(12)]
    return f"sat={write_published(tmp_path / 'SAT.parquet', 'sat', rows)}"


@pytest.fixture
def gsm8k(tmp_path):
    rows = [gsm8k_row(index) for index in range(1, 6)]
    return f"gsm8k={write_published(tmp_path / 'gsm8k.parquet', 'gsm8k', rows)}"


def test_one_source(sat):
    config = build_config({"data": sat, "data_limit": 9, "max_images": 1, "question_types": "other"})
    source = training_source(config)
    assert [row.id for row in source] == [f"SAT.parquet:{index}" for index in (2, 4, 8)]
    (counts,) = counts_of(source)
    assert (counts.first, counts.other_types, counts.too_many_images) == (9, 3, 3)


def test_several_sources(sat, gsm8k):
    source = training_source(build_config({"data": [sat, gsm8k], "data_weights": [3, 1]}))
    assert isinstance(source, Mixture)
    assert (source.names, source.block) == (("sat", "gsm8k"), (3, 1))


def test_options_are_shuffled_by_the_runs_seed(sat):
    orders = [
        [row.options for row in training_source(build_config({"data": sat, "seed": seed}))]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
