from __future__ import annotations

from pathlib import Path

import pytest

from stoker.client.requirements import check_requirement, read_requirements
from stoker.errors import InvalidOption, InvalidRequest


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "numpy>=1.26,<2",
        "scikit-learn ~= 1.5",
        "uvicorn[standard]==0.30.*",
        "zope.interface (>=5,<7)",
        "torch==2.13.0+cpu",
        'tomli>=2; python_version < "3.11"',
        "pkg @ https://example.com/pkg-1-py3-none-any.whl",
        "git+https://example.com/x.git@main#egg=x",
        "a1 !=1.0a1, ===1.0",
    ],
)
def test_requirements_that_are_well_formed(text: str) -> None:
    assert check_requirement(f" {text} ", where="here") == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "empty"),
        ("numpy=1.26", "Did you mean numpy==1.26"),
        ("numpy 1.26", "Did you mean numpy==1.26"),
        ("numpy scipy", "one requirement per argument"),
        ("--upgrade", "keyword arguments"),
        ("./mine", "add_local_python_source"),
        ("dist/x.whl", "find_links"),
        ("numpy>=", "Write it as"),
        ("numpy>>1", "Write it as"),
        ("a[b", "Write it as"),
        ("tomli; nonsense", "Write it as"),
    ],
)
def test_malformed_ones_say_how_to_write_them(text: str, hint: str) -> None:
    with pytest.raises(InvalidOption, match=f"here: .*{hint}"):
        check_requirement(text, where="here")


def test_files_keep_their_line_numbers_and_bring_those_they_include(tmp_path: Path) -> None:
    (tmp_path / "base.txt").write_text("six==1.16.0 \\\n    --hash=sha256:abc\n")
    (tmp_path / "pins.txt").write_text("numpy<2\n")
    (tmp_path / "wheels").mkdir()
    main = tmp_path / "requirements.txt"
    main.write_text("-r base.txt\n-c pins.txt\n\n--find-links wheels\nnumpy # fast\n")
    base, pins, own = read_requirements(main)
    assert (base.name, base.constraint) == (str(tmp_path / "base.txt"), False)
    assert (pins.text, pins.constraint) == ("numpy<2\n", True)
    assert own.text.splitlines()[3:] == [f"--find-links {tmp_path}/wheels", "numpy # fast"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("six\n\nfoo bar\n", r"line 3: 'foo bar'"),
        ("-e .\n", r"line 1: an editable install"),
        ("six\n--nonsense x\n", r"line 2: the option '--nonsense'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.txt").write_text(text)
    with pytest.raises(InvalidOption, match=message):
        read_requirements(tmp_path / "r.txt")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_requirements(tmp_path / "absent.txt")
    (tmp_path / "self.txt").write_text("-r self.txt\n")
    with pytest.raises(InvalidRequest, match="includes itself"):
        read_requirements(tmp_path / "self.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read_requirements(tmp_path / "binary.txt")
