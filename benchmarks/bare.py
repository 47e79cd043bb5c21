"""Imported before the package, lets a training start where there is torch but no tqdm."""

import importlib.util
import sys
from types import ModuleType
from typing import Any


class NoBar:
    """What a training asks of a progress bar, without one."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None: ...

    def set_postfix(self, *_arguments: Any) -> None: ...

    def update(self) -> None: ...

    def close(self) -> None: ...


if importlib.util.find_spec("tqdm") is None:
    names = ("tqdm", "tqdm.auto")
    sys.modules |= {name: ModuleType(name) for name in names}
    sys.modules["tqdm.auto"].tqdm = NoBar  # type: ignore[attr-defined]
    import fairrec_pipeline.training.fit  # noqa: F401  # keeps what it imported

    for name in names:  # torch looks for tqdm itself, and must not find this one
        del sys.modules[name]
