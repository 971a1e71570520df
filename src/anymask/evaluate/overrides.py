"""`--set key=value` on a protocol: checked names and types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from anymask.core.errors import OptionError, unknown_name

P = TypeVar("P")


def with_overrides(protocol: P, overrides: Sequence[str]) -> P:
    """The protocol with `key=value`, or `part.key=value` for a field of a field, replaced."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = _keys(protocol)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise OptionError(f"--set takes key=value, got {override!r}.")
        if key not in known:
            raise unknown_name("protocol field", key, known)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(protocol), OmegaConf.from_dotlist(list(overrides)))
        result: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise OptionError(f"--set {' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    return result


def _keys(protocol: Any, prefix: str = "") -> list[str]:
    keys = []
    for field in fields(protocol):
        value = getattr(protocol, field.name)
        if is_dataclass(value):
            keys += _keys(value, f"{prefix}{field.name}.")
        else:
            keys.append(prefix + field.name)
    return keys
