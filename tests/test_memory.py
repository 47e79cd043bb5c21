"""What the machine has left, and what is refused for lack of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.memory import available_memory, in_words, require_memory

MEMINFO = "MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable: 3000 kB\nSwapFree: 500 kB\n"


def files(root: Path, **contents: str) -> Path:
    for name, content in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_a_machine_says_what_is_available(tmp_path: Path) -> None:
    assert available_memory(files(tmp_path, proc__meminfo=MEMINFO)) == 3500 * 1024
    here = available_memory()
    assert here is None or here > 0


def test_elsewhere_than_on_linux_nothing_is_known(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    require_memory({"x": 2**60}, "this", available=None)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_less(tmp_path: Path, version: int) -> None:
    """Its limit, less what is used, its cache not counted; of a group or of one around it."""
    files(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/a/b\n" if version == 2 else "5:memory:/a/b\n")
    names = [("memory.max", "memory.current", "inactive_file"),
             ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")][2 - version]  # fmt: skip
    top = tmp_path / ("sys/fs/cgroup" if version == 2 else "sys/fs/cgroup/memory")
    for folder, limit in (("a/b", "max"), ("a", "10000"), ("", "9000000")):
        (top / folder).mkdir(parents=True, exist_ok=True)
        for name, content in zip((*names[:2], "memory.stat"), (limit, "4000", f"{names[2]} 1000\n"), strict=True):
            (top / folder / name).write_text(content)
    assert available_memory(tmp_path) == 7000


def test_the_refusal_names_both_figures_and_the_largest_parts() -> None:
    needs = {f"part {number} [p{number}]": number * 2**30 for number in range(1, 7)}
    with pytest.raises(OptionError) as error:
        require_memory(needs, "training x", available=20 * 2**30)
    said = str(error.value)
    assert "training x would take about 21.0 GiB of memory, and this machine has 20.0 GiB left" in said
    assert said.index("6.0 GiB: part 6 [p6]") < said.index("5.0 GiB: part 5 [p5]")
    assert "part 1" not in said
    require_memory(needs, "training x", available=21 * 2**30)


def test_sizes_in_words() -> None:
    assert [in_words(size) for size in (0, 1023, 1536, 2**30, 2**70)] == [
        "0.0 bytes", "1,023.0 bytes", "1.5 KiB", "1.0 GiB", "1,048,576.0 PiB",
    ]  # fmt: skip
