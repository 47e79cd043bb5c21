"""The memory of a plan: counted where it can be counted, measured where it cannot, and refused in time."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from fairrec_pipeline.arms.spec import Plan
from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.experiments.memory import n_parameters, require_memory_for, training_memory
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.parameters.methods import METHODS
from tests.worlds import OPTIONS, prepared_data, spec_of

DATA = prepared_data()


def plan(*, seeds: tuple[int, ...] = (0,), arm: str = "erm", **changes: Any) -> Plan:
    return Plan(name="p", specs=(spec_of(arm, **changes),), seeds=seeds)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_counted_to_the_last(tied: bool) -> None:
    backbone = spec_of(model={"dim": 12, "feed_forward": 20, "blocks": 3, "heads": 2, "tied_embeddings": tied}).model
    model = SASRec(37, **backbone.model_dump())
    assert n_parameters(backbone, 37) == sum(parameter.numel() for parameter in model.parameters())


def test_what_fits_is_not_refused() -> None:
    for loss in OPTIONS:
        require_memory_for(plan(arm=f"{loss}-pop33" if METHODS[loss].needs_groups else loss), DATA, at_once=1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"dim": 2**16}}, "a checkpoint .*model.dim"),
        ({"model": {"feed_forward": 2**16, "blocks": 1000}}, "states of a batch .*model.blocks"),
        ({"train": {"batch_size": 2**20, "steps_per_epoch": 10**6}}, "losses and weights of an epoch"),
        ({"arm": "rsr_hard", "options": {"clusters": 2**16}, "train": {"batch_size": 2**16}}, "clusters"),
        ({"arm": "causald", "options": {"samples": 2**16, "positions": None, "n_teachers": 1000}}, "samples"),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_what_is_large(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=rf"machine has 1.0 GiB left:\n  - [\d,.]+ .iB: {named}"):
        require_memory_for(plan(**changes), DATA, at_once=1, available=2**30)


def test_trainings_side_by_side_take_as_many_times_as_much() -> None:
    one = sum(training_memory(spec_of(), DATA).values())
    require_memory_for(plan(seeds=(0, 1, 2)), DATA, at_once=1, available=one)
    with pytest.raises(OptionError, match=r"3 at once \[trials_at_once\]"):
        require_memory_for(plan(seeds=(0, 1, 2)), DATA, at_once=8, available=3 * one)


def test_workers_share_what_hangs_on_the_batch_and_have_the_rest_each() -> None:
    one, two = (training_memory(spec_of(train={"workers": workers}), DATA) for workers in (1, 2))
    (logits,) = (name for name in one if name.startswith("logits"))
    assert two[logits] == one[logits] // 2
    assert {name for name in one if two[name] != one[name]} <= {logits, next(x for x in one if x.startswith("states"))}
    with pytest.raises(OptionError, match=r"processes that train side by side \[trials_at_once, train.workers\]"):
        require_memory_for(plan(train={"workers": 2}), DATA, at_once=1, available=2 * sum(two.values()))


def test_nothing_to_train_takes_nothing() -> None:
    require_memory_for(Plan(name="p"), DATA, at_once=1, available=0)


MEASURE = """
import json, sys, tempfile, threading, time
from pathlib import Path
import torch
from fairrec_pipeline.experiments.memory import training_memory
from fairrec_pipeline.experiments.train_arm import train
from fairrec_pipeline.arms.store import ArmStore
from fairrec_pipeline.interactions.prepared import PreparedData
from tests.worlds import random_histories, spec_of, user_groups
asked = json.loads(sys.argv[1])
torch.set_num_threads(1)
lengths = [1 + user % asked["longest"] for user in range(1000)]
histories = [random_histories(lengths, n_items=asked["n_items"], held_out=held) for held in (False, True, True)]
data = PreparedData(*histories, "f" * 64, "w", {}, user_groups(1000), {})
spec = spec_of(model=asked["model"], train=asked["train"] | {"epochs": 2, "steps_per_epoch": 2})
used = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before, peak, ended = used(), 0, False
def watch():
    global peak
    while not ended:
        peak = max(peak, used())
        time.sleep(0.002)
watching = threading.Thread(target=watch, daemon=True)
watching.start()
with tempfile.TemporaryDirectory() as folder:
    train(spec, data, ArmStore(folder, folder, folder, "1"))
ended = True
watching.join()
print(json.dumps({"measured": peak - before, "estimated": sum(training_memory(spec, data).values())}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "asked",
    [
        {"n_items": 20_000, "longest": 30, "model": {"dim": 96, "feed_forward": 96, "max_length": 50},
         "train": {"batch_size": 64}},
        {"n_items": 500, "longest": 120, "model": {"dim": 64, "feed_forward": 64, "blocks": 2, "max_length": 100},
         "train": {"batch_size": 200}},
    ],
    ids=["many items", "long histories"],
)  # fmt: skip
def test_a_training_takes_no_more_than_its_estimate_and_not_much_less(asked: dict[str, Any]) -> None:
    """The measured peak hangs on the C library, too."""
    run = subprocess.run([sys.executable, "-c", MEASURE, json.dumps(asked)], capture_output=True, text=True, check=True)
    sizes = json.loads(run.stdout.splitlines()[-1])
    assert 1 <= sizes["estimated"] / sizes["measured"] < 1.7, sizes
