"""A full disk ends a run in one line; what was saved stays, and with room the run goes on."""

import pytest
from fixtures.faults import enlarge, small_disk
from fixtures.one_run import assert_same, make_base

from vtzero.training.checkpoints import Checkpoints

KIB, ROOM = 1024, 2**30


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def straight(base):
    assert base.run(base.folder / "straight") == (0, "")
    return base.folder / "straight"


# What a run of 6 MB cannot write: its first figures; its first checkpoint; its second beside the first; and
# its last, which replaces others only once it is whole.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "saved"),
    [
        (16 * KIB, None),
        (300 * KIB, None),
        (2600 * KIB, 2),
        (4300 * KIB, 4),
        (5500 * KIB, 6),
    ],
)
def test_a_full_disk_costs_the_time_since_the_last_checkpoint(base, straight, tmp_path, size, saved):
    out = tmp_path / "run"
    out.mkdir()
    with small_disk(out, size):
        code, said = base.run(out)
        assert code == 1
        goes_on = f"the same command goes on after step {saved}" if saved else "no step was saved yet"
        (line,) = said.splitlines()
        assert line.startswith("vtzero train: cannot write (")
        assert f"No space left on device); make room; {goes_on}" in line
        assert Checkpoints(out / "checkpoints", keep=None).latest_step() == saved
        enlarge(out, ROOM)
        assert base.run(out) == (0, "")
        assert_same(out, straight)
