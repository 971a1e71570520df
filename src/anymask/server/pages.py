"""The browser app's files, where they are built; else a page that says how."""

from __future__ import annotations

from pathlib import Path

STATIC = Path(__file__).parent / "static"
HOW_TO_BUILD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>anymask</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1.5rem}
code{background:#8882;padding:.1em .4em;border-radius:4px}</style>
<h1>The app is not built yet</h1>
<p>The server runs, and its API is described at <a href="/openapi.json">/openapi.json</a>.
To build the app in this source checkout, with Node 20.19 or later installed, run</p>
<p><code>make web</code></p>
<p>and start the server again. Installed wheels bring the app along.</p>
</html>"""


def has_app(folder: Path = STATIC) -> bool:
    """Is the app built?"""
    return (folder / "index.html").is_file()
