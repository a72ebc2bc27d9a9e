from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from stoker.client.wheels import make_wheel, wheel_stem


def test_a_wheel_depends_on_names_contents_and_the_executable_bit_alone(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "tool.py").write_text("X = 1")
        os.utime(tmp_path / place / "tool.py", (1, 1) if place == "a" else None)
    texts = {"tool-1.dist-info/METADATA": "Name: tool\nVersion: 1\n"}
    a, b = (make_wheel("tool", "1", files={"tool.py": tmp_path / x / "tool.py"}, texts=texts) for x in "ab")
    assert a == b
    (tmp_path / "b" / "tool.py").chmod(0o755)
    assert make_wheel("tool", "1", files={"tool.py": tmp_path / "b" / "tool.py"}, texts=texts) != a


def test_the_record_lists_every_file(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("")
    wheel = make_wheel("My.Tool", "1.0-1", files={'odd,"name".py': file}, texts={})
    with zipfile.ZipFile(io.BytesIO(wheel)) as opened:
        record = opened.read("my_tool-1.0_1.dist-info/RECORD").decode().splitlines()
    assert wheel_stem("My.Tool", "1.0-1") == "my_tool-1.0_1"
    assert record[0].startswith("my_tool-1.0_1.dist-info/WHEEL,sha256=")
    assert record[1:] == [
        '"odd,""name"".py",sha256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU,0',
        "my_tool-1.0_1.dist-info/RECORD,,",
    ]
