"""Training the plain padded model for the same budget, to compare with."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.jobs import Arm, Job
from benchmarks.reference import PaddedBatches, PaddedSASRec, PaddedStep
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.metrics.ranking import Scorer, ndcg, rank_targets
from fairrec_pipeline.training.batches import UserStream
from fairrec_pipeline.training.checkpoint import Checkpoint, Snapshot, optimizer_tensors, restore_optimizer, sections


def fit_padded(job: Job, arm: Arm, checkpoint: Checkpoint) -> None:
    """`fit` in short for the padded model: no patience, no schedule; the same stream of users and the same products.

    What comes out is what the checkpoint is given.
    """
    device, steps_per_epoch, batch_size = arm.device, job.budget["steps_per_epoch"], job.budget["batch_size"]
    torch.manual_seed(arm.seed)
    model = padded_model(job, arm)
    optimizer = torch.optim.Adam(model.parameters(), lr=job.budget["learning_rate"], fused=True)
    objective, codes = job.objective(arm), job.data(arm).groups
    step = PaddedStep(model, optimizer, objective, None if codes is None else torch.from_numpy(codes).to(device))
    state = {name: value.to(device) for name, value in objective.initial_state().items()}
    batches = PaddedBatches(job.train, max_length=job.backbone["max_length"])
    stream = UserStream(job.train.n_users, batch_size, arm.seed)
    progress: dict[str, Any] = {"epoch": 0, "seconds": 0.0, "best_epoch": 0, "best_ndcg": -1.0, "finished": False}
    progress |= {"history": [], "validation_seconds": []}
    best: dict[str, Tensor] = {}

    snapshot = checkpoint.load()
    if snapshot:
        progress, best = snapshot.description["progress"], snapshot.section("best")
        if progress["finished"]:
            return
        model.load_state_dict(snapshot.section("model"))
        restore_optimizer(optimizer, snapshot.section("optimizer"))
        state = {name: value.to(device) for name, value in snapshot.section("objective").items()}

    while progress["epoch"] < job.budget["epochs"]:
        begun, epoch = time.monotonic(), progress["epoch"]
        model.train()
        torch.manual_seed(int(np.random.SeedSequence((arm.seed, epoch)).generate_state(1)[0]))
        losses = []
        for number in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
            with device:  # the reference makes its tensors where torch makes them
                batch = batches.batch(stream.users(number).tolist())
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                    of_users, state = step(batch, state, number)
            losses.append(of_users.mean())
        loss = float(torch.stack(losses).mean())
        validated = time.monotonic()
        scorer = padded_scorer(model, job.validation, batch_size, device)
        ranks = rank_targets(scorer, job.validation, filter_seen=job.filter_seen, device=device.type)
        score = float(ndcg(ranks, 20).mean())
        progress["validation_seconds"].append(time.monotonic() - validated)
        progress["epoch"] = epoch + 1
        if score > progress["best_ndcg"]:
            progress["best_ndcg"], progress["best_epoch"] = score, epoch + 1
            best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        progress["seconds"] += time.monotonic() - begun
        row = {"epoch": epoch + 1, "seconds": progress["seconds"], "loss": loss, "validation_ndcg_at_20": score}
        progress["history"].append(row)
        progress["finished"] = progress["epoch"] == job.budget["epochs"]
        parts = {"optimizer": optimizer_tensors(optimizer), "model": model.state_dict()}
        tensors = sections(best=best, objective=state, **({} if progress["finished"] else parts))
        checkpoint.save(Snapshot(tensors, {"progress": progress}))


def padded_model(job: Job, arm: Arm) -> PaddedSASRec:
    assert arm.padding is not None
    return PaddedSASRec(job.train.n_items, **job.backbone, padding=arm.padding).to(arm.device)  # type: ignore[arg-type]


@torch.no_grad()
def padded_scorer(model: PaddedSASRec, histories: Histories, batch_size: int, device: torch.device) -> Scorer:
    """Scores of the padded model; users are encoded in their order, `batch_size` at a time.

    With the published padding the batch matters: a state depends on the longest user beside it.
    """
    model.eval()
    batches = PaddedBatches(histories, max_length=model.position_embedding.num_embeddings)
    states = []
    with device:
        for start in range(0, histories.n_users, batch_size):
            batch = batches.batch(list(range(start, min(start + batch_size, histories.n_users))))
            states.append(model(batch.tokens, batch.padding)[:, -1])
    all_states = torch.cat(states)

    @torch.no_grad()
    def score(users: Tensor) -> Tensor:
        return model.logits(all_states[users])

    return score
