"""Proves: the public names load, belong to the version that is installed, and are documented."""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest

import anymask


def test_every_public_name_loads_and_is_documented() -> None:
    for name in anymask.__all__:
        thing = getattr(anymask, name)
        assert name in dir(anymask)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sam_predictor'"):
        _ = anymask.sam_predictor


def test_version() -> None:
    assert importlib.metadata.version("anymask") == anymask.__version__
