"""The server behind the browser app: `create_app` in app.py; everything it holds hangs on one object."""
