"""The untrained tiny model's folder: read by this package and transformers; its tokenizer loses nothing."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from vtzero.data.example import Example
from vtzero.data.processor import Processor
from vtzero.data.prompts import IMAGE, TEMPLATES
from vtzero.data.scenes_source import ScenesSource
from vtzero.data.supervised import corpus
from vtzero.models.qwen2_vl.config import parse_config
from vtzero.models.qwen2_vl.model import Qwen2VL
from vtzero.scenes.blank import IMAGE_SIDE, QWEN2_PATTERN, SPECIAL_TOKENS, VOCABULARY, write_blank
from vtzero.scenes.world import COLOURS, COLUMNS, ROWS, SHAPES

PAPER = TEMPLATES["r1_zero_base"]


@pytest.fixture(scope="module")
def texts():
    return corpus(PAPER, 500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("blank") / "tiny"
    write_blank(path, iter(texts))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_folder(folder)


def unseen_texts(count):
    """Prompts of held-out items, which the tokenizer was not trained on."""
    source = ScenesSource("test")
    return [PAPER.text.replace("{question}", source[index].question) for index in range(count)]


# --- the tokenizer ---


def test_texts_survive_the_round_trip(texts, tokenizer):
    for text in texts + unseen_texts(40) + ["émigré 北京 🙂\n\n  tabs\tand  spaces ", "<think> </answer>"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_every_id_is_within_the_vocabulary(tokenizer):
    size = tokenizer.get_vocab_size()
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert 256 + len(SPECIAL_TOKENS) < size <= VOCABULARY


def test_special_tokens_come_last_and_are_never_split(tokenizer):
    size = tokenizer.get_vocab_size()
    ids = [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(size - len(SPECIAL_TOKENS), size))
    for token, number in zip(SPECIAL_TOKENS, ids, strict=True):
        assert tokenizer.encode(f"x{token}y").ids == [
            *tokenizer.encode("x").ids,
            number,
            *tokenizer.encode("y").ids,
        ]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize("word", [*COLOURS, *SHAPES, *COLUMNS, *ROWS, "answer"])
def test_words_of_the_scenes_are_single_tokens(word, tokenizer):
    assert tokenizer.encode(f" {word}").tokens == [f"Ġ{word}"]


def test_words_are_cut_as_qwen2_cuts_them():
    assert QWEN2_PATTERN == PRETOKENIZE_REGEX


def test_digits_stand_alone(tokenizer):
    assert tokenizer.encode("in 1234").tokens[-4:] == ["1", "2", "3", "4"]


def test_transformers_reads_the_same_tokens(folder, texts, tokenizer):
    theirs = AutoTokenizer.from_pretrained(folder)
    for text in (
        texts[:400] + unseen_texts(20) + [f"a<|image_pad|>b{SPECIAL_TOKENS[2]}", "Ünïcode don't  1234"]
    ):
        assert theirs(text)["input_ids"] == tokenizer.encode(text).ids
    assert theirs.eos_token == theirs.pad_token == "<|endoftext|>"
    assert theirs.bos_token is None
    assert set(SPECIAL_TOKENS) == set(theirs.all_special_tokens)


def test_the_same_texts_give_the_same_folder(folder, texts, tmp_path):
    write_blank(tmp_path / "again", iter(texts))
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert [(tmp_path / "again" / name).read_bytes() for name in names] == [
        (folder / name).read_bytes() for name in names
    ]


# --- the model's shape ---


def test_the_config_is_read(folder, tokenizer):
    config = parse_config(json.loads((folder / "config.json").read_text()))
    assert config.text.vocab_size == VOCABULARY
    assert config.tie_word_embeddings
    assert config.image_token_id == tokenizer.token_to_id("<|image_pad|>")
    assert config.vision_start_token_id == tokenizer.token_to_id("<|vision_start|>")
    assert config.text.hidden_size == config.vision.hidden_size


def test_the_model_has_under_a_million_parameters(folder):
    config = parse_config(json.loads((folder / "config.json").read_text()))
    model = nnx.eval_shape(lambda: Qwen2VL(config, rngs=nnx.Rngs(0)))
    sizes = [np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert 300_000 < sum(sizes) < 1_000_000


def test_transformers_reads_the_config(folder):
    ours = parse_config(json.loads((folder / "config.json").read_text()))
    theirs = AutoConfig.from_pretrained(folder)
    assert theirs.model_type == "qwen2_vl"
    assert theirs.text_config.hidden_size == ours.text.hidden_size
    assert theirs.text_config.vocab_size == ours.text.vocab_size
    assert theirs.vision_config.embed_dim == ours.vision.embed_dim
    assert theirs.image_token_id == ours.image_token_id


# --- the processor ---


def test_both_stop_tokens_end_a_completion(processor, tokenizer):
    expected = {tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")}
    assert set(processor.stop_ids) == expected
    assert processor.pad_id == tokenizer.token_to_id("<|endoftext|>")


def test_a_scene_becomes_nine_image_tokens(processor):
    prepared = processor.prepare(ScenesSource("train")[0], PAPER)
    assert prepared.patches.shape == (36, 3 * 2 * 14 * 14)
    assert (prepared.ids == processor.config.image_token_id).sum() == 9
    assert processor.max_patches() == 36
    assert processor.decode(prepared.ids) == prepared.text.replace(IMAGE, "")


def test_pictures_are_read_pixel_by_pixel(processor):
    """No resizing: every patch holds the picture's own pixels, normalised."""
    example = ScenesSource("train")[5]
    prepared = processor.prepare(example, PAPER)
    pixels = np.asarray(example.images[0], np.float32) / 255
    means, deviations = processor.image_processor.image_mean, processor.image_processor.image_std
    normalised = ((pixels - np.array(means)) / np.array(deviations)).astype(np.float32)
    patches = prepared.patches.reshape(36, 3, 2, 14, 14)
    for patch, (row, column) in zip(patches, prepared.patch_positions, strict=True):
        expected = normalised[14 * row : 14 * row + 14, 14 * column : 14 * column + 14].transpose(2, 0, 1)
        for frame in range(2):
            np.testing.assert_allclose(patch[:, frame], expected, atol=1e-5)


def test_larger_pictures_are_shrunk_to_the_same_size(processor):
    large = Image.new("RGB", (5 * IMAGE_SIDE, 5 * IMAGE_SIDE), "white")
    assert processor.prepare(Example("large", "Where?", "left", (large,)), PAPER).patches.shape[0] == 36
