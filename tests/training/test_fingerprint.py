"""Two models of one path are told apart by their weights, two copies of one model are not."""

import shutil

from fixtures.tiny_folder import make_tiny_folder

from vtzero.training.fingerprint import weights_digest


def test_a_copy_has_the_same_mark_and_other_weights_have_another(tmp_path):
    folder = make_tiny_folder(tmp_path / "one", seed=0)
    mark = weights_digest(folder)
    assert len(mark) == 16
    assert weights_digest(shutil.copytree(folder, tmp_path / "copy")) == mark
    assert weights_digest(make_tiny_folder(tmp_path / "two", seed=1)) != mark


def test_the_last_byte_counts(tmp_path):
    folder = make_tiny_folder(tmp_path / "one")
    mark = weights_digest(folder)
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert weights_digest(folder) != mark
