"""Memory: what the machine has left, and who would take more of it than there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from fairrec_pipeline.errors import OptionError

_GROUPS = (  # limit, usage, statistics and the cache in them: of cgroups version 2 and 1
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_SHOWN = 4  # of the contributors, in a message


def require_memory(needs: Mapping[str, int], what: str, *, available: int | None) -> None:
    """Refuse what would not fit into memory, before it begins.

    Args:
        needs: bytes by contributor, each named with the parameters that it hangs on.
        what: would be done, for the message.
        available: bytes that there are; None if that is not known, and then nothing is refused.

    Raises:
        OptionError: it does not fit; the message has both figures, and what takes most.
    """
    total = sum(needs.values())
    if available is None or total <= available:
        return
    largest = sorted(needs.items(), key=lambda need: -need[1])[:_SHOWN]
    listed = "\n".join(f"  - {in_words(size)}: {name}" for name, size in largest)
    raise OptionError(
        f"{what} would take about {in_words(total)} of memory, and this machine has {in_words(available)} left:\n"
        f"{listed}\nLower what stands in brackets, the first line first, or use a larger machine"
    )


def in_words(size: int) -> str:
    """Bytes as text, such as `1.5 GiB`."""
    amount, units = float(size), ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:,.1f} {units[0]}"


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that a process can have now, within the limits of its container; None where Linux does not say."""
    found = [*_of_the_machine(root), *_of_the_container(root)]
    return min(found, default=None)


def _of_the_machine(root: Path) -> Iterator[int]:
    with suppress(OSError, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        if "MemAvailable" in sizes:
            yield sizes["MemAvailable"] + sizes.get("SwapFree", 0)


def _of_the_container(root: Path) -> Iterator[int]:
    """What is left of every limit on the way to the group of this process."""
    with suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
        paths = {Path(line.split(":", 2)[2].lstrip("/")) for line in lines if line.count(":") >= 2}
        for place, limit, usage, cache in _GROUPS:
            for folder in {root / place / each for path in paths for each in (path, *path.parents)}:
                with suppress(OSError, ValueError):
                    most, used = (int((folder / name).read_text()) for name in (limit, usage))
                    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    yield max(0, most - used + int(statistics.get(cache, 0)))
