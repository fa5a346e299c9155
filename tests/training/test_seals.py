"""A sealed folder: any byte that changes, any file that comes or goes, is found and named."""

from pathlib import Path

import pytest

from vtzero.training.seals import SEAL, damage, is_sealed, seal, unseal

FILES = {"a": b"some bytes", "deep/er/b": b"", "deep/c": bytes(range(256)) * 40}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert not is_sealed(tmp_path)
    seal(tmp_path)
    return tmp_path


def test_a_folder_as_it_was_written_has_no_damage(folder: Path) -> None:
    assert is_sealed(folder)
    assert damage(folder) is None


@pytest.mark.parametrize("name", FILES)
def test_a_missing_a_shorter_and_a_longer_file_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert damage(folder) == f"{name} is missing"
    (folder / name).write_bytes(FILES[name] + b"x")
    assert damage(folder) == f"{name} is not as it was written"
    (folder / name).write_bytes(FILES[name])
    assert damage(folder) is None


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_found_in_the_seal_too(folder: Path, bit: int) -> None:
    for name in ("a", SEAL):
        path = folder / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert damage(folder) is not None, (name, place)
        path.write_bytes(whole)
    assert damage(folder) is None


def test_a_file_that_came_later_is_named(folder: Path) -> None:
    (folder / "deep" / "new").write_bytes(b"")
    assert damage(folder) == "deep/new was not there when it was written"


def test_an_unsealed_folder_was_not_finished(folder: Path) -> None:
    unseal(folder)
    assert not is_sealed(folder)
    unseal(folder)
