"""Prepared prompts against transformers' own tokenizer, image processor, expansion and positions."""

import json
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fixtures.tiny_folder import SPECIAL_TOKENS, make_tiny_folder
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

from vtzero.data.example import Example, Rejected
from vtzero.data.processor import PreparedPrompt, Processor
from vtzero.data.prompts import prompt_template

REAL_IMAGES = sorted((Path(__file__).parents[3] / "shared" / "real" / "images").glob("*.jpg"))
BASE, CHAT = prompt_template("r1_zero_base"), prompt_template("instruct_reason")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def processor(folder):
    return Processor.from_folder(folder)


def noise(seed, width, height):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def example(*images, question="Where is the cube?", answer="left", options=("left", "right")):
    return Example("e", question, answer, images, options)


SIZES = [
    (28, 28),
    (1, 1),
    (3, 3),
    (2, 300),
    (13, 400),
    (101, 67),
    (56, 55),
    (512, 512),
    (640, 479),
    (1000, 9),
]


@pytest.mark.parametrize("size", SIZES)
def test_patches_equal_transformers(processor, folder, size):
    image = noise(sum(size), *size)
    theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=[image], return_tensors="np")
    ours = processor.prepare(example(image), BASE)
    np.testing.assert_array_equal(ours.patches, theirs["pixel_values"])
    assert ours.patches.dtype == np.float32
    _, height, width = theirs["image_grid_thw"][0]
    assert len(ours.patches) == height * width
    assert ours.patch_positions.max(axis=0).tolist() == [height - 1, width - 1]
    assert np.all(ours.segments == 1)


@pytest.mark.skipif(not REAL_IMAGES, reason="the real frames are not here")
@pytest.mark.parametrize("path", REAL_IMAGES, ids=lambda path: path.name)
def test_patches_of_real_frames_equal_transformers(tmp_path, path):
    folder = make_tiny_folder(tmp_path, max_pixels=401408)
    theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)
    expected = theirs(images=[Image.open(path)], return_tensors="np")
    ours = Processor.from_folder(folder).prepare(example(path), BASE)
    np.testing.assert_array_equal(ours.patches, expected["pixel_values"])
    assert (ours.ids == ours.ids[1]).sum() * 4 == expected["image_grid_thw"].prod()


@pytest.mark.parametrize("template", [BASE, CHAT], ids=["base", "chat"])
@pytest.mark.parametrize("sizes", [[], [(60, 90)], [(28, 28), (100, 40), (90, 90)]], ids=len)
def test_ids_equal_transformers_expansion(processor, folder, template, sizes):
    """Qwen2VLProcessor repeats each placeholder in the text, then tokenizes."""
    images = [noise(i, *size) for i, size in enumerate(sizes)]
    ours = processor.prepare(example(*images), template)
    image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    pieces = ours.text.split("<|image_pad|>")
    assert len(pieces) == len(images) + 1
    expanded = pieces[0]
    for image, piece in zip(images, pieces[1:], strict=True):
        grid = image_processor(images=[image], return_tensors="np")["image_grid_thw"][0]
        expanded += "<|image_pad|>" * (grid.prod() // 4) + piece
    assert ours.ids.tolist() == AutoTokenizer.from_pretrained(folder)(expanded).input_ids
    assert ours.ids.dtype == np.int32


def test_positions_equal_transformers(processor, folder):
    images = [noise(1, 60, 90), noise(2, 130, 40)]
    ours = processor.prepare(example(*images), CHAT)
    grids = Qwen2VLImageProcessorPil.from_pretrained(folder)(images=images, return_tensors="pt")[
        "image_grid_thw"
    ]
    positions, start = rope_index(folder, ours.ids, grids)
    np.testing.assert_array_equal(ours.positions, positions)
    assert ours.start == start
    assert ours.segments.tolist() == [1] * int(grids[0].prod()) + [2] * int(grids[1].prod())


def rope_index(folder, ids, grids):
    """Positions and the completion's first position by transformers' model."""
    torch = pytest.importorskip("torch")
    config = Qwen2VLConfig.from_pretrained(folder)
    ids = torch.from_numpy(ids.astype(np.int64))[None]
    kinds = (ids == config.image_token_id).int()
    model = Qwen2VLModel(config)
    positions, delta = model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grids)
    return positions[:, 0].numpy(), int(delta[0, 0]) + ids.shape[1]


def test_a_prompt_without_images_has_no_patches(processor):
    ours = processor.prepare(example(), BASE)
    assert ours.patches.shape == (0, 3 * 2 * 14 * 14)
    assert ours.patch_positions.shape == (0, 2)
    assert ours.segments.shape == (0,)
    assert ours.start == len(ours.ids)


def test_the_example_travels_with_the_prompt(processor):
    ours = processor.prepare(example(noise(0, 30, 30)), BASE)
    assert (ours.id, ours.answer, ours.options, ours.task) == ("e", "left", ("left", "right"), "")
    assert "Choose between the following options: left or right" in ours.text


# --- what cannot be used ---


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_special_tokens_in_question_or_options_are_rejected(processor, token):
    for bad in (example(question=f"Where {token}?"), example(options=("left", f"x{token}"))):
        rejected = processor.prepare(bad, BASE)
        assert isinstance(rejected, Rejected)
        assert token in rejected.reason


@pytest.mark.parametrize("text", ["<image>", "<think>", "<|image_pad", "{question}", "émoji 🧊 ﬁ", "\0"])
def test_other_odd_texts_are_kept(processor, text):
    ours = processor.prepare(example(noise(0, 30, 30), question=f"Where {text}?", options=()), BASE)
    assert f"User: Where {text}? \n" in ours.text


def test_unusable_images_are_rejected(processor, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for image, reason in [
        (tmp_path / "bad.png", "bad.png cannot be read"),
        (b"", "cannot be read"),
        (noise(0, 2000, 9), "aspect ratio"),
    ]:
        rejected = processor.prepare(example(noise(1, 30, 30), image), BASE)
        assert isinstance(rejected, Rejected)
        assert reason in rejected.reason
        assert "\n" not in rejected.reason


# --- text of completions ---


def test_decode_inverts_encode_and_skips_special_tokens(processor, folder):
    text = "<think> the cube , é 🧊\n</think>\n<answer> left </answer>"
    ids = [*processor.encode(text), *processor.stop_ids, processor.pad_id]
    assert processor.decode(np.array(ids)) == text
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_ids_without_a_token_decode_to_nothing(processor):
    """The published vocabularies are padded: the model can sample ids that the tokenizer does not know."""
    assert processor.decode([*processor.encode("left"), 100_000]) == "left"


def test_stop_and_pad_ids(processor):
    vocabulary = processor.tokenizer.get_vocab()
    assert processor.stop_ids == (vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"])
    assert processor.pad_id == vocabulary["<|endoftext|>"]


@pytest.mark.parametrize("content", [{}, {"eos_token_id": None}, None])
def test_stop_ids_fall_to_the_tokenizer(tmp_path, content):
    folder = make_tiny_folder(tmp_path)
    (folder / "generation_config.json").unlink()
    if content is not None:
        (folder / "generation_config.json").write_text(json.dumps(content))
    processor = Processor.from_folder(folder)
    assert processor.stop_ids == (processor.tokenizer.eos_token_id,)


# --- settings of the folder ---


def edit(path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


HUB = {"min_pixels": 784, "max_pixels": 7840}
NEW = {"min_pixels": None, "max_pixels": None, "size": {"shortest_edge": 784, "longest_edge": 7840}}
OLD = {"min_pixels": None, "max_pixels": None, "size": {"min_pixels": 784, "max_pixels": 7840}}
BOTH = HUB | {"size": {"shortest_edge": 784, "longest_edge": 99999}}


@pytest.mark.parametrize("settings", [HUB, NEW, OLD, BOTH], ids=["hub", "new", "old", "both"])
def test_pixel_limits_are_read_in_every_spelling(tmp_path, settings):
    folder = make_tiny_folder(tmp_path)
    edit(folder / "preprocessor_config.json", **settings)
    processor = Processor.from_folder(folder)
    assert len(processor.prepare(example(noise(0, 500, 500)), BASE).patches) == 36
    assert processor.max_patches(2) == 2 * 40
    assert len(processor.prepare(example(noise(0, 5, 5)), BASE).patches) == 4


@pytest.mark.parametrize("settings", [HUB, NEW, OLD], ids=["hub", "new", "old"])
def test_limits_of_the_call_win(tmp_path, settings):
    folder = make_tiny_folder(tmp_path)
    edit(folder / "preprocessor_config.json", **settings)
    processor = Processor.from_folder(folder, min_pixels=84 * 84, max_pixels=112 * 112)
    assert len(processor.prepare(example(noise(0, 500, 500)), BASE).patches) == 64
    assert len(processor.prepare(example(noise(0, 5, 5)), BASE).patches) == 36


def test_settings_that_transformers_5_saved(tmp_path):
    """Its processors are saved to processor_config.json, with the image processor inside."""
    folder = make_tiny_folder(tmp_path)
    settings = Qwen2VLImageProcessorPil(**HUB, image_mean=[0.5] * 3, image_std=[0.5] * 3).to_dict()
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}, default=str))
    ours = Processor.from_folder(folder).prepare(example(Image.new("RGB", (500, 500), "white")), BASE)
    assert ours.patches.shape == (36, 1176)
    np.testing.assert_allclose(ours.patches, 1, atol=1e-6)


def test_wrong_limits_and_sizes_are_named(tmp_path):
    folder = make_tiny_folder(tmp_path, min_pixels=3136)
    with pytest.raises(ValueError, match="min_pixels is 3136 and max_pixels 1000"):
        Processor.from_folder(folder, max_pixels=1000)
    edit(folder / "preprocessor_config.json", patch_size=16)
    with pytest.raises(
        ValueError, match=r"patch_size is 16 in preprocessor_config\.json, but 14 in config\.json"
    ):
        Processor.from_folder(folder)


def test_a_tokenizer_of_another_model_is_named(tmp_path):
    folder = make_tiny_folder(tmp_path)
    edit(folder / "config.json", image_token_id=3)
    with pytest.raises(ValueError, match=r"<\|image_pad\|> as 412, but config.json as 3"):
        Processor.from_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_missing_files_are_named(tmp_path, name):
    folder = make_tiny_folder(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
        Processor.from_folder(folder)


def test_truncation_stored_with_the_tokenizer_is_ignored(tmp_path, processor):
    folder = make_tiny_folder(tmp_path)
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    edit(folder / "tokenizer.json", truncation=truncation)
    text = "Where is the cube? " * 20
    assert Processor.from_folder(folder).encode(text) == processor.encode(text)


# --- threads, torch, and the folder itself ---


def test_threads_prepare_the_same(processor):
    examples = [example(noise(i, 40 + i, 70), question=f"Where is cube {i}?") for i in range(24)]
    alone = [processor.prepare(item, BASE) for item in examples]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: processor.prepare(item, BASE), examples))
    for one, other in zip(alone, together, strict=True):
        assert isinstance(one, PreparedPrompt)
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.patches, other.patches)


def test_torch_is_not_needed(folder, tmp_path):
    """The same prompt in an interpreter whose packages are all of these but torch."""
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.startswith(("torch", "__editable__")) and entry.suffix != ".pth":
            (tmp_path / entry.name).symlink_to(entry)
    script = (
        "import sys, importlib.util\n"
        "assert importlib.util.find_spec('torch') is None\n"
        "from PIL import Image\n"
        "from vtzero.data.example import Example\n"
        "from vtzero.data.processor import Processor\n"
        "from vtzero.data.prompts import prompt_template\n"
        "example = Example('e', 'Where?', 'left', (Image.new('RGB', (64, 64), 'red'),))\n"
        "ours = Processor.from_folder(sys.argv[1]).prepare(example, prompt_template('r1_zero_base'))\n"
        "print(ours.patches.shape, ours.ids.tolist())\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", script, str(folder)],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = Processor.from_folder(folder).prepare(
        Example("e", "Where?", "left", (Image.new("RGB", (64, 64), "red"),)), BASE
    )
    assert done.stdout.strip().splitlines()[-1] == f"{here.patches.shape} {here.ids.tolist()}"


@pytest.mark.parametrize("tied", [False, True])
def test_the_tiny_folder_is_complete_for_transformers(tmp_path, tied):
    pytest.importorskip("torch")
    folder = make_tiny_folder(tmp_path, tie_word_embeddings=tied)
    _, loading = Qwen2VLForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
