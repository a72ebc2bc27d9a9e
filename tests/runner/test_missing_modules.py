"""A module that is missing in a worker is said to be, with what to write to have it there."""

from __future__ import annotations

import pytest

from stoker.protocol.remote_exceptions import RemoteTraceback, encode_exception
from stoker.runner.missing_modules import advice, advise, set_kind


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("cv2", "has no 'cv2': add .pip_install(\"opencv-python\") to it."),
        ("some_package.part", 'add .pip_install("some-package") to it, or, if it is a module of yours, .add_local_'),
        ("pytest.no_such_part", ""),
        ("tkinter", ""),
    ],
)
def test_an_image_is_to_have_what_is_missing(module: str, said: str) -> None:
    found = advice(module, is_image=True)
    assert said in found and bool(said) is bool(found)


def test_ones_own_environment_is_not_an_image() -> None:
    found = advice("yaml_of_tomorrow", is_image=False)
    assert "own environment: install yaml-of-tomorrow there" in found and "stoker.Image.python()" in found


def test_it_stands_below_the_exception_that_was_raised_here_and_once() -> None:
    set_kind(is_image=True)
    try:
        error = ModuleNotFoundError("No module named 'PIL'", name="no_pillow_here")
        advise(error)
        assert encode_exception(error)[1].traceback.count(".pip_install(") == 1
        far = ModuleNotFoundError("No module named 'x'", name="no_such_module")
        far.__cause__ = RemoteTraceback("it was raised in another function")
        advise(far)
        advise(ValueError("no module"))
        assert not hasattr(far, "__notes__"), "its own worker has said what there is to say"
    finally:
        set_kind(is_image=False)
