"""`vtzero`, less patient with the other processes of its job. Run by `test_joining.py`."""

import sys

from vtzero.cli import main
from vtzero.parallel import processes

processes.JOIN_SECONDS = int(sys.argv.pop(1))
processes.GOODBYE_SECONDS = 3
sys.exit(main())
