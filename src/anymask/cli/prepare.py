"""`anymask data prepare`: is a downloaded data set of the point-to-mask evaluation complete?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def prepare(
    name: Annotated[str, typer.Argument(help="A set of the paper's 23, such as `cityscapes`; `all` lists them.")],
    root: Annotated[Path | None, typer.Option(help="Where its archives are unpacked.")] = None,
) -> None:
    """Check a downloaded data set of the point-to-mask evaluation, and say exactly what is missing.

    **Example**

    `anymask data prepare cityscapes --root /data/cityscapes`
    """
    from anymask.core.errors import OptionError
    from anymask.evaluate.datasets import SETS, prepare

    if name == "all":
        for entry in SETS:
            layout = "; ".join(entry.layout.files)
            print(f"{entry.name:13}{entry.domain:29}{entry.num_images:6,} photos{entry.num_masks:7,} masks  {layout}")
        return
    if root is None:
        raise OptionError(f"--root says where {name} is unpacked.")
    found = prepare(name, root)
    print(f"{found.entry.title}, {found.entry.split}: {found.num_images:,} photos, {found.num_masks:,} masks")
    for line in found.missing:
        print(f"  missing: {line}")
    for line in found.problems[:20]:
        print(f"  problem: {line}")
    if len(found.problems) > 20:
        print(f"  … and {len(found.problems) - 20} more")
    if not found.ready:
        raise typer.Exit(1)
    print(f"ready: anymask evaluate points --data {name}:{root}")
