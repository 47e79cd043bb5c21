"""Whatever tree of parameters is given: a run that can be planned, or one of our errors. Never anything else."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairrec_pipeline.arms.spec import Plan
from fairrec_pipeline.parameters.datasets import Source
from fairrec_pipeline.parameters.loader import NAMES_OF_FOLDERS, ParameterError, ParameterLoader, complete
from fairrec_pipeline.settings import CONFIG_LOADER_ARGS

CONF = Path(__file__).parents[2] / "conf"
TREES = int(os.environ.get("FAIRREC_EXAMPLES", "1000"))


@cache
def loader() -> ParameterLoader:
    return ParameterLoader(str(CONF), env="test", **CONFIG_LOADER_ARGS)


@cache
def layers() -> tuple[dict[str, Any], ...]:
    """conf/base and conf/test."""
    return tuple(loader()._files())


def names(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Path of every block and value."""
    if not isinstance(tree, Mapping):
        return [prefix]
    return [*([prefix] if prefix else []), *(path for name in tree for path in names(tree[name], (*prefix, str(name))))]


NUMBERS = [0, 1, -1, 2, 10**6, 10**9, 2**31, 2**63 - 1, 2**63, 10**400, 0.0, 1e-300, 5e-324, 1e300, -0.5,
           float("nan"), float("inf"), -float("inf")]  # fmt: skip
TEXTS = ["", "erm", "cvar", "gdro-pop33", "all", "synthetic", "null", "${oc.env:HOME}", "${train.epochs}",
"!!python/name:os.system",
         "../..", "/etc/passwd", "a.b", "model.dim", "train.epochs", "\0", "\ud800", "ä漢🎲", "x" * 5000,
         "1e3"]  # fmt: skip
leaves = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.sampled_from(TEXTS), st.integers(), st.floats(),
    st.text(max_size=8), st.binary(max_size=3), st.dates(),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(["loss", "adapter", "parameters", "alpha", "epochs", "erm", "small", "arms", "seeds", "tune",
    "model.dim", ""]),
    st.integers(0, 3), st.none(), st.booleans(), st.floats(), st.text(max_size=3),
)  # fmt: skip
values = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def trees(draw: st.DrawFn) -> dict[Any, Any]:
    """A layer that sets up to four of the known names to anything, at any depth, now and then unknown ones."""
    tree: dict[Any, Any] = {}
    known = sorted({path for layer in layers() for path in names(layer)})
    for path in draw(st.lists(st.sampled_from(known), max_size=4)):
        block: Any = tree
        for name in path[:-1]:
            block = block.setdefault(name, {})
            if not isinstance(block, dict):
                break
        else:
            block[path[-1]] = draw(values)
    if draw(st.integers(0, 9)) == 0:
        tree |= draw(st.dictionaries(keys, values, max_size=2))
    return tree


def outcome(tree: Mapping[Any, Any]) -> str:
    """What comes of a layer over conf/base and conf/test; anything but one of our errors goes through."""
    folders = {name: loader()["globals"].get(name) for name in NAMES_OF_FOLDERS}
    folders |= {name: tree[name] for name in NAMES_OF_FOLDERS if name in tree}
    try:
        found = complete([*layers(), tree], folders)
    except ParameterError as error:
        assert str(error).strip()
        return "refused"
    Source.model_validate(found["source"])
    for name in ("train", "tune", "experiment", "default"):
        Plan.model_validate(found["plans"][name])
    return "planned"


@settings(max_examples=TREES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=TREES == 1000)
@given(trees())
def test_a_tree_is_planned_or_refused(tree: dict[Any, Any]) -> None:
    outcome(tree)


FAULTS: list[dict[Any, Any]] = [
    {"cvar": 5}, {"datasets": 5}, {"loss": ["cvar"]}, {"train": None}, {"grids": 5}, {"groups": 5},
    {"datasets": {"synthetic": {"n_users": 9}}}, {"datasets": {"synthetic": None}}, {"datasets": {"synthetic": [1]}},
    {"grids": {1: {2: [3]}}}, {"grids": {"cvar": {1: [0.3]}}}, {"experiments": {"small": {"seeds": 10**9}}},
    {"seed": 2**63}, {"seed": 10**400}, {"train": {"epochs": 10**30}}, {"model": {"dim": 10**30}}, {1: 2}, {None: None},
    {"cvar": {"alpha": 5e-324}}, {"kl": {"tau": 1e-300}}, {"loss_groups": ["pop33"]}, {"dataset": {"a": 1}},
    {"dataset": float("nan")}, {"experiment": None}, {"experiment": {}}, {"evaluate": {"top_k": 2**70}},
    {"split": {"validation_users": 10**400}}, {"datasets": {"synthetic": {"n_users": 10**12}}},
    {"grids": {"cvar": {"alpha": [[0.3]]}}}, {"experiments": {"small": {"arms": [["erm"]]}}},
    {"datasets": {"synthetic": {"parameters": {"train": 5}}}}, {"datasets": {"synthetic": {"parameters": [5]}}},
    {"datasets": {"synthetic": {"parameters": {1: {}}}}}, {"groups": {"splits": {"pop33": [1e308, 1e308, -1e308]}}},
]  # fmt: skip


@pytest.mark.parametrize("tree", FAULTS, ids=lambda tree: str(tree)[:50])
def test_what_once_ended_in_a_traceback_is_refused(tree: dict[Any, Any]) -> None:
    assert outcome(tree) == "refused"


YAML = [
    "!!python/object/apply:os.system ['touch {mark}']", "cvar: !!python/name:os.system", "train: [1, 2", "- a\n- b",
    "5", "text",
    "null", "{}", "? [a, b]\n: c", "a: &a [*a]", "train: {epochs: ${oc.env:HOME}}",
    "train: {epochs: ${oc.env:NOTHING_IS_CALLED_SO}}",
    "train: {epochs: ${oc.env:NOTHING,5}}", "train: ${nothing}", "train: {epochs: ${oc.create:}}",
    "train: {epochs: ???}",
    "train: {epochs: ${globals:nothing}}", "train: {epochs: ${runtime_params:nothing}}", "train: {epochs: 0o7}",
    "\ufeffseed: 0", "\0", "seed: !!float .nan", "seed: !!binary aGFsbG8=", "seed: !!timestamp 2001-12-14",
    "seed: !!set {a, b}",
    "train: &t {epochs: 5}\nmodel: *t", "<<: {seed: 3}", "1: 2", "1.5: 2", "true: 3", "~: 4", "2001-12-14: 5",
    "!!str 5: 6",
    "train: {epochs: ${train.epochs}}", "train: {epochs: '${'}", "loss: ${loss}", "grids: {1: {2: [3]}}",
]  # fmt: skip


@pytest.mark.parametrize("text", YAML, ids=lambda text: repr(text)[:40])
def test_a_file_is_planned_or_refused(text: str, project: Path) -> None:
    mark = project / "mark"
    (project / "conf/local/parameters.yml").write_text(text.replace("{mark}", str(mark)), encoding="utf-8")
    found = ParameterLoader(str(project / "conf"), env="local", **CONFIG_LOADER_ARGS)
    try:
        found["parameters"]
    except ParameterError as error:
        assert str(error).strip()
    assert not mark.exists()


RAW = [b"\xff\xfe\x00", b"seed: \xe4", b"\x80" * 10, "seed: 1".encode("utf-16"), b"{" * 5000]


@pytest.mark.parametrize("content", RAW, ids=lambda content: repr(content)[:20])
def test_bytes_that_are_no_text_are_planned_or_refused(content: bytes, project: Path) -> None:
    (project / "conf/local/parameters.yml").write_bytes(content)
    found = ParameterLoader(str(project / "conf"), env="local", **CONFIG_LOADER_ARGS)
    begun = time.monotonic()
    try:
        found["parameters"]
    except ParameterError as error:
        assert str(error).strip()
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("name", ["globals", "catalog", "mlflow", "parameters"])
@pytest.mark.parametrize("content", [b"5", b"- a", b"a: [", b"\xff\xfe", b"a: ${nothing}"])
def test_a_file_of_another_kind_names_itself(name: str, content: bytes, project: Path) -> None:
    file = project / f"conf/local/{name}.yml"
    file.write_bytes(content)
    with pytest.raises(ParameterError, match=r"cannot be read|unknown") as error:
        found = ParameterLoader(str(project / "conf"), env="local", **CONFIG_LOADER_ARGS)
        found.config_patterns["mlflow"] = ["mlflow*"]
        found[name]
    assert content == b"a: ${nothing}" or str(file) in str(error.value)
