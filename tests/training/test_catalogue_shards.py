"""A catalogue over several processes: losses, weights and ranks of one process, and a memory that falls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fairrec_pipeline.errors import OptionError
from fairrec_pipeline.experiments.workers import together
from fairrec_pipeline.metrics.ranking import rank_and_loss
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.models.sasrec import SASRec
from fairrec_pipeline.models.softmax_head import SoftmaxHead
from fairrec_pipeline.training import catalogue_shards
from fairrec_pipeline.training.batches import Batches
from fairrec_pipeline.training.catalogue_shards import TABLES, Shard, ShardedHead, ShardedSASRec, rank_over_shards
from fairrec_pipeline.training.cuda_graphs import StepRunner
from fairrec_pipeline.training.scoring import ModelScorer
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.team import Team
from tests.worlds import HISTORY_LENGTHS, STEP_RATES, STEP_USERS, objective_of, random_histories, small_model

N_ITEMS = 37
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "erm": ("erm", {}, {}),
    "cvar, dropout": ("cvar", {"dropout": 0.3}, {"chunk": 5}),
    "cb, tied, nothing kept": ("cb", {"dropout": 0.3, "tied_embeddings": True}, {"chunk": 4, "keep_bytes": 0}),
}


def outcome(case: str) -> dict[str, Any]:
    """Losses and weights of the steps, then ranks and losses, of one process or of this process's shard."""
    loss, backbone, options = CASES[case]
    whole, team, train = small_model(**backbone), Team.here(), random_histories(HISTORY_LENGTHS)
    model, head = whole, SoftmaxHead(**options)
    if team.size > 1:
        shard = Shard(N_ITEMS, team)
        sizes = {"dim": 16, "feed_forward": 24, "blocks": 2, "heads": 2, "dropout": 0.0, "max_length": 12}
        model = ShardedSASRec(shard, **{**sizes, "init_std": 0.5, **backbone}).double()
        model.load_whole(whole.state_dict())
        head = ShardedHead(shard, **options)
    model.train().mask_source = MaskSource(4)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    step = TrainingStep(model, optimizer, objective_of(loss, train), None, head=head)
    batches = Batches(train, max_length=12, device=torch.device("cpu"))
    trained = StepRunner(step, batches, {}).run(STEP_USERS, STEP_RATES, 0)
    found = {"losses": trained.losses.numpy(), "weights": trained.weights.numpy()}
    found |= {name: x.detach().numpy() for name, x in model.named_parameters()}
    held_out = random_histories(HISTORY_LENGTHS, held_out=True)
    assert held_out.targets is not None
    held_out.targets[3] = -1
    for filter_seen in (False, True):
        if isinstance(model, ShardedSASRec):
            ranks = rank_over_shards(model, held_out, filter_seen=filter_seen)
        else:
            ranks = rank_and_loss(ModelScorer(model, held_out), held_out, filter_seen=filter_seen)
        found |= dict(zip((f"ranks {filter_seen}", f"ranking losses {filter_seen}"), ranks, strict=True))
    return found


def all_outcomes() -> dict[str, dict[str, Any]]:
    torch.set_default_dtype(torch.float64)
    try:
        return {case: outcome(case) for case in CASES}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return all_outcomes()


@pytest.fixture(scope="module")
def shards() -> list[dict[str, dict[str, Any]]]:
    """By process; of 37 items they have 12, 12 and 13."""
    return together(all_outcomes, 3)


@pytest.mark.parametrize("case", CASES)
def test_shards_are_the_whole(
    case: str, alone: dict[str, dict[str, Any]], shards: list[dict[str, dict[str, Any]]]
) -> None:
    for name, of_whole in alone[case].items():
        whole = of_whole
        parts = [shard[case][name] for shard in shards]
        if name == TABLES[0]:  # the start token's row is that of the last process
            parts = [*(part[:-1] for part in parts[:-1]), parts[-1]]
        found = np.concatenate(parts) if name in TABLES else parts[0]
        if name not in TABLES:
            assert all(np.array_equal(found, part, equal_nan=True) for part in parts), name
        if name.startswith("ranks"):
            assert np.array_equal(found, whole)
            assert found[3] == 0
        else:
            if name.endswith("qkv.bias"):  # those of the keys change nothing, see `benchmarks.workers.difference`
                found, whole = (np.delete(bias.reshape(3, -1), 1, axis=0) for bias in (found, whole))
            atol = 1e-6 if "ranking losses" in name else 1e-9 * np.abs(whole).max()
            np.testing.assert_allclose(found, whole, rtol=0, atol=atol, err_msg=name)


def test_a_shard_has_its_rows_only() -> None:
    table = torch.arange(12).view(6, 2)
    parts = [Shard(5, Team(rank, 3)).rows(table)[:-1] for rank in range(3)]
    assert [len(part) for part in parts] == [1, 2, 2]
    assert torch.equal(torch.cat(parts), table[:5])


def test_fresh_parameters_are_the_same_for_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_shards, "_BLOCK", 8)
    sizes = {"dim": 4, "feed_forward": 4, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 5, "init_std": 0.5}

    def tables(size: int) -> list[torch.Tensor]:
        torch.manual_seed(1)
        models = [ShardedSASRec(Shard(N_ITEMS, Team(rank, size)), **sizes) for rank in range(size)]
        start = models[-1].item_embedding.weight[-1:]
        return [
            torch.cat([*(model.item_embedding.weight[:-1] for model in models), start]),
            torch.cat([model.output_table for model in models]),
            *(x for model in models[:: size - 1 or 1] for name, x in model.named_parameters() if name not in TABLES),
        ]

    one = tables(1)
    for size in (2, 5):
        several = tables(size)
        assert all(map(torch.equal, [*one, *one[2:]], several))
        assert len(several) == 2 * len(one) - 2
    assert len(one[0].unique()) == one[0].numel()
    assert not torch.equal(one[0][:-1], one[1])
    assert float(one[1].detach().std()) == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("rows", [range(0, 7), range(3, 19), range(18, 19), range(0, 19)])
def test_masks_of_some_rows_are_those_of_the_table(rows: range, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairrec_pipeline.models.dropout._WORDS_AT_ONCE", 3)
    one, other = MaskSource(1), MaskSource(1)
    whole = one.kept((19, 5), 0.4)
    assert torch.equal(other.kept_rows((19, 5), 0.4, rows), whole[rows.start : rows.stop])
    assert torch.equal(one.kept((3, 3), 0.4), other.kept((3, 3), 0.4))


def test_what_cannot_be_shared_out_is_refused() -> None:
    sizes = {"dim": 4, "feed_forward": 4, "blocks": 1, "heads": 1, "dropout": 0.0, "max_length": 5, "init_std": 0.5}
    with pytest.raises(OptionError, match=r"copy_window=3; set model.copy_window=0"):
        ShardedSASRec(Shard(9, Team()), **sizes, copy_window=3)
    with pytest.raises(OptionError, match="2 items cannot be shared out over 3 processes"):
        ShardedSASRec(Shard(2, Team(0, 3)), **sizes)
    assert isinstance(ShardedSASRec(Shard(9, Team()), **sizes), SASRec)
