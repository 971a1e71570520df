"""What a server may use: every bound in one place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from anymask.core.errors import OptionError

LOOPBACK_NAMES = frozenset(["localhost", "127.0.0.1", "::1"])


@dataclass(frozen=True)
class Settings:
    """Bounds of one server. token: asked of every client; None asks nobody, which only loopback may do."""

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    cache_bytes: int = 512 * 2**20  # embeddings kept; a ViT or lite embedding is 2 or 4 MB
    upload_bytes: int = 64 * 2**20
    upload_pixels: int = 64_000_000
    json_bytes: int = 8 * 2**20
    waiting_jobs: int = 64  # more are told to come back
    everything_jobs: int = 2  # at once
    max_prompts: int = 64
    max_points: int = 128  # of one prompt
    label_studio_url: str | None = None  # whose photos may be fetched
    label_studio_key: str | None = None  # access token of an account there

    def __post_init__(self) -> None:
        for name in ("cache_bytes", "upload_bytes", "upload_pixels", "json_bytes", "waiting_jobs", "everything_jobs"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.label_studio_url is not None and not self.label_studio_url.startswith(("http://", "https://")):
            raise OptionError(f"Label Studio's address starts with http:// or https://, got {self.label_studio_url!r}.")
        if self.token is None and not is_loopback(self.host):
            raise OptionError(f"{self.host} can be reached from other machines, so a token is needed.")

    @property
    def is_private(self) -> bool:
        """Only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Does this name or address mean this machine alone?"""
    if host.strip("[]") in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
