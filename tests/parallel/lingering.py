"""`vtzero`, whose second process takes its time at the very end. Run by `test_joining.py`."""

import os
import sys
import time

from vtzero.cli import main

end = os._exit


def end_late(code: int) -> None:
    if os.environ["JAX_PROCESS_ID"] == "1":
        time.sleep(2)
    end(code)


os._exit = end_late  # type: ignore[assignment]
sys.exit(main())
