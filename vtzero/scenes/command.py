"""`vtzero scenes`: the drawn world as files, as a picture for people, or as both. Knows no model."""

from pathlib import Path
from typing import Any

from vtzero.scenes.contact_sheet import SheetSettings, write_contact_sheet
from vtzero.scenes.dataset import write_scenes
from vtzero.terminal import visible


def draw(
    out: Path | None, sheet: SheetSettings | None, *, train: int, test: int, seed: int
) -> dict[str, Any]:
    """Write the data set to `out` and a contact sheet of its first training rows; returns what was written.

    Raises ValueError where neither is asked for.
    """
    if out is None and sheet is None:
        raise ValueError("nothing to write; name a folder for the data set, --sheet FILE.png, or both")
    figures: dict[str, Any] = {}
    if sheet is not None:
        write_contact_sheet(sheet, seed=seed)
        print(f"wrote {visible(sheet.path)}")
        figures |= {"sheet": str(sheet.path), "scenes": sheet.rows * sheet.columns}
    if out is not None:
        write_scenes(out, train=train, test=test, seed=seed)
        figures |= {"folder": str(out), "train": train, "test": test}
    return figures
