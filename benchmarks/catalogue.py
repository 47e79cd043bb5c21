"""`python -m benchmarks.catalogue`: a large catalogue over 1, 2 and 4 processes: memory of each, and seconds."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

from benchmarks.isolation import peak_memory
from fairrec_pipeline.experiments.workers import together
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.models.dropout import MaskSource
from fairrec_pipeline.objectives.cvar import CVaR
from fairrec_pipeline.training.batches import Batches, UserStream
from fairrec_pipeline.training.catalogue_shards import Shard, ShardedHead, ShardedSASRec, rank_over_shards
from fairrec_pipeline.training.step import TrainingStep
from fairrec_pipeline.training.team import Team

N_USERS, LENGTH = 64, 10
BACKBONE = {"feed_forward": 16, "blocks": 1, "heads": 1, "dropout": 0.2, "max_length": 20, "init_std": 0.1}


def measured(n_items: int, dim: int, batch_size: int, steps: int) -> dict[str, Any]:
    """A training and an evaluation of this process's shard of a generated catalogue."""
    before, shard = peak_memory(), Shard(n_items, Team.here())
    random = np.random.default_rng(0)
    items, offsets = random.integers(0, n_items, N_USERS * LENGTH), np.arange(N_USERS + 1) * LENGTH
    # the ids of the catalogue, 8 bytes an item, are looked at by nothing here, and so take no memory
    users, catalogue = np.arange(N_USERS), np.broadcast_to(np.int64(0), (n_items,))
    train = Histories(users, catalogue, items, offsets)
    targets, repeats = random.integers(0, n_items, N_USERS), np.zeros(N_USERS, dtype=bool)
    held_out = Histories(users, catalogue, items, offsets, targets, repeats)
    torch.manual_seed(0)
    model = ShardedSASRec(shard, dim=dim, **BACKBONE).train()
    model.mask_source = MaskSource(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=True)
    step = TrainingStep(model, optimizer, CVaR(alpha=0.3), None, head=ShardedHead(shard, keep_bytes=0))
    batches = Batches(train, max_length=model.max_length, device=torch.device("cpu"))
    stream, losses, seconds = UserStream(N_USERS, batch_size, 0), [], []
    for number in range(steps):
        begun = time.perf_counter()
        losses.append(step(batches.batch(stream.users(number)), {}, number).losses.mean().item())
        seconds.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    ranks, _ = rank_over_shards(model, held_out, filter_seen=True)
    return {
        "peak_mib": (peak_memory() - before) / 2**20,
        "tables_mib": sum(x.numel() for x in model.parameters()) * 4 * 4 / 2**20,
        "step_seconds": float(np.median(seconds)),
        "rank_seconds": time.perf_counter() - begun,
        "last_loss": losses[-1],
        "mean_rank": float(ranks.mean()),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.catalogue", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="(default %(default)s)")
    parser.add_argument("--items", type=int, default=1_000_000, help="of the catalogue (default %(default)s)")
    parser.add_argument("--dim", type=int, default=16, help="of an embedding (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="users (default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    print(f"{options.items:,} items, dim {options.dim}, batches of {options.batch_size} users of {LENGTH} items")
    print("| processes | peak MiB each | of it weights, gradients, moments | s a step | s to rank | loss | mean rank |")
    print("|---|---|---|---|---|---|---|")
    for size in options.processes:
        of_all = together(measured, size, (options.items, options.dim, options.batch_size, options.steps))
        row = {name: max(each[name] for each in of_all) for name in of_all[0]}
        print(
            f"| {size} | {row['peak_mib']:.0f} | {row['tables_mib']:.0f} | {row['step_seconds']:.2f} | "
            f"{row['rank_seconds']:.2f} | {row['last_loss']:.5f} | {row['mean_rank']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
