"""The one exception tree. Every message says what was expected, what came, and what to do next.

AnymaskError
├── InputError (ValueError)      the caller's data
│   ├── ImageError               not an image, broken, wrong shape or dtype, too large
│   ├── PromptError              points, boxes, masks that cannot be used
│   └── OptionError              an option or name out of its range
├── CheckpointError (ValueError) weights that are not what they should be
├── ExportError (ValueError)     an exported file does not compute what its model does, or is broken
├── DownloadError (OSError)      the network, the disk, or the hash said no
├── StateError (RuntimeError)    called in the wrong order
│   ├── LeaseError               the task is somebody else's by now, or done
│   └── NotFoundError            the store has no row of this id
├── StoreError (RuntimeError)    the database is missing, full, locked, or of another schema
└── MissingExtraError (ImportError)  an optional dependency is not installed
"""


class AnymaskError(Exception):
    """Base of all errors that anymask raises on purpose."""


class InputError(AnymaskError, ValueError):
    """The data handed in cannot be used."""


class ImageError(InputError):
    """The image is unreadable, broken, too large, or of an unusable shape or type."""


class PromptError(InputError):
    """A point, box or mask prompt cannot be used."""


class OptionError(InputError):
    """An option or a name is unknown or out of range."""


class CheckpointError(AnymaskError, ValueError):
    """A weights file is not what it should be."""


class ExportError(AnymaskError, ValueError):
    """An exported file is broken, or does not compute what its model computes."""


class DownloadError(AnymaskError, OSError):
    """A download did not end with the right file on disk."""


class StateError(AnymaskError, RuntimeError):
    """A method was called before what it needs."""


class LeaseError(StateError):
    """A task is not, or no longer, held by who wants to save to it."""


class NotFoundError(StateError):
    """The store has no row of this id."""


class StoreError(AnymaskError, RuntimeError):
    """The database cannot be used, or could not keep what it was given; nothing was half written."""


class MissingExtraError(AnymaskError, ImportError):
    """An optional dependency is missing; the message holds the pip line."""


def unknown_name(kind: str, name: str, known: list[str]) -> OptionError:
    """The error for a name that is not in a table: lists the known ones, nearest first."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return OptionError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
