"""`python -m anymask.server.openapi`: the API's types as JSON schemas; `make web-types` makes the app's of them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from anymask.server.app import routers


def document() -> dict[str, Any]:
    """An OpenAPI document with the types that go over the wire, and no paths."""
    app = FastAPI(title="anymask", version="0")  # a constant: a new version is no new type
    for router in routers():
        app.include_router(router)
    return {**app.openapi(), "paths": {}}


if __name__ == "__main__":
    print(json.dumps(document(), indent=1))
