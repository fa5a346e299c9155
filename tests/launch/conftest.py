"""What the tests of the launch scripts share."""

from pathlib import Path

import pytest
from fixtures.launching import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)
