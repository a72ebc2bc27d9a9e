"""What to do about a module that code imports and its environment has not: said below the exception, as a note.

Notes travel with exceptions, and stand in their tracebacks (PEP 678).
"""

from __future__ import annotations

import importlib.util
import sys

from stoker.protocol.remote_exceptions import RemoteTraceback, add_note

DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "Crypto": "pycryptodome",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "git": "gitpython",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "mpl_toolkits": "matplotlib",
    "MySQLdb": "mysqlclient",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "slugify": "python-slugify",
    "umap": "umap-learn",
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
"""What modules are installed by, where that has another name than they."""

_is_image = False


def set_kind(*, is_image: bool) -> None:
    """Say whether this environment was made for an image; else it is the caller's own."""
    global _is_image
    _is_image = is_image


def advise(error: BaseException) -> None:
    """Add to an exception that says that there is no such module where one is declared; others stay as they are."""
    if not isinstance(error, ModuleNotFoundError) or isinstance(error.__cause__, RemoteTraceback):
        return
    text = advice(error.name, is_image=_is_image) if error.name else ""
    if text:
        add_note(error, text)


def advice(module: str, *, is_image: bool) -> str:
    """Return what to do about a module that is not there; nothing where its package is, or it is Python's own."""
    name = module.partition(".")[0]
    distribution = distribution_of(name)
    if name in sys.stdlib_module_names or _is_there(name):
        return ""
    own = f', or, if it is a module of yours, .add_local_python_source("{name}")'
    if is_image:
        added = f'The image of this function has no {name!r}: add .pip_install("{distribution}") to it'
    else:
        added = (
            f"{name!r} is not installed where this function runs, which is its program's own environment: install "
            f'{distribution} there, or give it an image, as in stoker.Image.python().pip_install("{distribution}")'
        )
        own = ""
    return f"{added}{'' if name in DISTRIBUTIONS else own}."


def distribution_of(module: str) -> str:
    """Return what a top-level module is most likely installed by."""
    return DISTRIBUTIONS.get(module, module.replace("_", "-"))


def _is_there(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
