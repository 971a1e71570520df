"""Which models exist, where their files come from, and where they are kept on this machine.

Nothing here imports torch, so that listing models is instant. Three environment variables steer it:

ANYMASK_HOME            folder of downloaded files; default `$XDG_CACHE_HOME/anymask`, else `~/.cache/anymask`
ANYMASK_OFFLINE         1 forbids every download
ANYMASK_MODEL_BASE_URL  a mirror: http(s) folder that holds the official files under their official names
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from anymask.core.errors import CheckpointError, OptionError, unknown_name

OFFICIAL_BASE_URL = "https://dl.fbaipublicfiles.com/segment_anything"


@dataclass(frozen=True)
class ModelEntry:
    """One named model.

    file_name: name at the source and in the cache. base_url: the http(s) folder it comes from, None for a
    model that is part of the package. sha256: full hash in hex (the six digits in the official file names
    are the start of the *MD5*, not of this). num_bytes: exact size. preset: the name `build_sam` knows.
    """

    name: str
    file_name: str
    base_url: str | None
    sha256: str | None
    num_bytes: int | None
    licence: str
    preset: str
    description: str

    @property
    def embedded(self) -> bool:
        """True where the file is part of the package and nothing is downloaded."""
        return self.base_url is None


CATALOG: dict[str, ModelEntry] = {
    "lite": ModelEntry(
        name="lite",
        file_name="lite.safetensors",
        base_url=None,
        sha256=None,
        num_bytes=None,
        licence="Apache-2.0",
        preset="lite",
        description="small model inside the package: no download, fast without a GPU",
    ),
    "vit_b": ModelEntry(
        name="vit_b",
        file_name="sam_vit_b_01ec64.pth",
        base_url=OFFICIAL_BASE_URL,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        num_bytes=375_042_383,
        licence="Apache-2.0",
        preset="vit_b",
        description="official SAM with ViT-B, 94 M parameters",
    ),
    "vit_l": ModelEntry(
        name="vit_l",
        file_name="sam_vit_l_0b3195.pth",
        base_url=OFFICIAL_BASE_URL,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        num_bytes=1_249_524_607,
        licence="Apache-2.0",
        preset="vit_l",
        description="official SAM with ViT-L, 312 M parameters",
    ),
    "vit_h": ModelEntry(
        name="vit_h",
        file_name="sam_vit_h_4b8939.pth",
        base_url=OFFICIAL_BASE_URL,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        num_bytes=2_564_550_879,
        licence="Apache-2.0",
        preset="vit_h",
        description="official SAM with ViT-H, 641 M parameters; the paper's default",
    ),
}


def is_model_name(name: str) -> bool:
    """True for the names of the catalogue and for "default"."""
    return name == "default" or name in CATALOG


def find_entry(name: str) -> ModelEntry:
    """The entry of a name; "default" is vit_h, as in the official registry. OptionError if unknown."""
    entry = CATALOG.get("vit_h" if name == "default" else name)
    if entry is None:
        raise unknown_name("model", name, [*CATALOG, "default"])
    return entry


def cache_folder(home: Path | str | None = None) -> Path:
    """The folder of downloaded files: `home`, ANYMASK_HOME, or the user's cache; not created here."""
    if home is None:
        home = os.environ.get("ANYMASK_HOME") or None
    if home is None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = Path(cache) / "anymask"
    return Path(home).expanduser() / "models"


def is_offline() -> bool:
    """True where ANYMASK_OFFLINE forbids downloads."""
    return os.environ.get("ANYMASK_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def model_url(entry: ModelEntry, base_url: str | None = None) -> str:
    """Where a file is downloaded from: `base_url`, else ANYMASK_MODEL_BASE_URL, else the official address."""
    if entry.base_url is None:
        raise OptionError(f"{entry.name} is part of the package and has no address to download from.")
    base = base_url or os.environ.get("ANYMASK_MODEL_BASE_URL") or entry.base_url
    return f"{base.rstrip('/')}/{entry.file_name}"


def local_path(entry: ModelEntry, home: Path | str | None = None) -> Path:
    """Where the file of an entry is, or would be, on this machine."""
    if entry.embedded:
        return Path(__file__).with_name(entry.file_name)
    return cache_folder(home) / entry.file_name


def require_local(name: str, home: Path | str | None = None) -> Path:
    """The file of a named model on this machine; CheckpointError says how to get it where it is missing."""
    entry = find_entry(name)
    path = local_path(entry, home)
    if path.is_file():
        return path
    if entry.embedded:
        raise CheckpointError(
            f"this installation of anymask has no weights for {entry.name}: {path.name} should be part of "
            "the package. Reinstall it (pip install --force-reinstall anymask), or give a weights file by "
            "its path."
        )
    raise CheckpointError(
        f"the weights of {entry.name} are not on this machine (looked for {path}). "
        f"Run: anymask models pull {entry.name}"
    )
