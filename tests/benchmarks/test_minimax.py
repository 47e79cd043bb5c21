"""The minimax world: its rule, its table, and every arm of it at toy size."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.minimax import ARMS, TOY, World, generate, main, table, train_arm
from fairrec_pipeline.parameters.methods import METHODS


def test_the_rules_of_the_world() -> None:
    """Every group has one item after each item; held-out steps follow it, and about a tenth of the others does not."""
    world = World(noise=0.1)
    train, validation, test, groups = generate(world, seed=3)
    assert groups.sum() == 300
    items = train.items.reshape(3000, 10)
    assert test.targets is not None
    assert validation.targets is not None
    newest = test.items.reshape(3000, 11)[:, -1]
    np.testing.assert_array_equal(validation.targets, newest[validation.users])
    np.testing.assert_array_equal(test.items.reshape(3000, 11)[:, :10], items)
    rules = []
    for group in (0, 1):
        rule = dict(zip(newest[groups == group].tolist(), test.targets[groups == group].tolist(), strict=True))
        rules.append(rule)
        for before, after in ((newest, test.targets), (items[:, -1], newest)):
            pairs = zip(before[groups == group].tolist(), after[groups == group].tolist(), strict=True)
            assert all(rule.get(item, follower) == follower for item, follower in pairs)
        assert len(set(rule.values())) == len(rule)  # of a permutation
    steps = [(a, b) for row in items[groups == 0].tolist() for a, b in pairwise(row)]
    assert np.mean([rules[0][a] != b for a, b in steps]) == pytest.approx(0.1 * 0.99, abs=0.01)  # 1 % lead there anyway
    shared = [item for item in rules[1] if rules[0].get(item) == rules[1][item]]
    assert len(shared) < 10  # one on average


def test_same_seed_same_world() -> None:
    one, other = generate(TOY, 1), generate(TOY, 1)
    assert all(np.array_equal(one[k].items, other[k].items) for k in range(3))  # type: ignore[union-attr]
    assert not np.array_equal(one[0].items, generate(TOY, 2)[0].items)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm(arm: str) -> None:
    row = train_arm((TOY, arm, 0))
    assert row["arm"] == arm
    # 6 hidden users of 60
    assert row["overall"] == pytest.approx(0.9 * row["majority"] + 0.1 * row["hidden"])
    assert 0 < row["overall"] < 1


def test_every_method_has_an_arm() -> None:
    assert {loss for loss, _ in ARMS.values()} == set(METHODS)


def test_table_by_hand() -> None:
    """cvar: hidden .6 and .8, erm .5 and .6: differences .1 and .2, mean .15, sd sqrt(2 x .05^2) = .0707."""
    rows = pd.DataFrame(
        [
            ("erm", 0, 0.9, 0.5, 0.8, 1.0),
            ("erm", 1, 0.9, 0.6, 0.8, 3.0),
            ("cvar", 0, 0.8, 0.6, 0.7, 2.0),
            ("cvar", 1, 0.8, 0.8, 0.8, 2.5),
        ],
        columns=["arm", "seed", "majority", "hidden", "overall", "seconds"],
    )
    assert math.isclose(math.sqrt(2 * 0.05**2), 0.0707, abs_tol=1e-4)
    assert table(rows).splitlines()[2:] == [
        "| erm |  | 0.550 | 0.900 | 0.800 |  |  | 2.0 |",
        "| cvar | alpha 0.3 | 0.700 | 0.800 | 0.750 | +0.150 ± 0.071 | -0.050 ± 0.071 | 2.2 |",
    ]


def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.md"
    main(["--toy", "--seeds", "2", "--arms", "kl", "--noise", "0", "0.25", "--processes", "1", "--output", str(path)])
    written = path.read_text()
    assert written in capsys.readouterr().out
    assert [line for line in written.splitlines() if line.startswith("#")] == [
        "# A world in which the answer is known",
        "## Without noise",
        "## 25% of the steps lead anywhere",
    ]
    assert [line.split()[1] for line in written.splitlines() if line.startswith(("| erm", "| kl"))] == ["erm", "kl"] * 2
    assert "`python -m benchmarks.minimax --toy --seeds 2 --arms kl --noise 0 0.25 --processes 1 --output " in written
    rows = pd.read_csv(path.with_suffix(".csv"))
    assert len(rows) == 8
    assert all(table(of_noise) in written for _, of_noise in rows.groupby("noise"))
