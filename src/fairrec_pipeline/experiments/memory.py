"""What memory a plan takes, worked out before anything is trained."""

from __future__ import annotations

import numpy as np
import torch

from fairrec_pipeline.arms.spec import ArmSpec, Plan
from fairrec_pipeline.interactions.histories import Histories
from fairrec_pipeline.interactions.prepared import PreparedData
from fairrec_pipeline.memory import available_memory, require_memory
from fairrec_pipeline.metrics.ranking import SCORES_AT_ONCE
from fairrec_pipeline.models.softmax_head import CHUNK, KEEP_BYTES
from fairrec_pipeline.parameters.blocks import Model
from fairrec_pipeline.training.fit import resolve_device
from fairrec_pipeline.training.scoring import TOKENS_AT_ONCE
from fairrec_pipeline.training.user_windows import WINDOWS

_FLOAT, _NUMBER = 4, 8  # bytes
_PROCESS = 400 * 2**20  # a further process that has imported torch
_LIBRARIES = 50 * 2**20  # what training imports, and plans of the products
_WEIGHTS = "weights, gradients, Adam's moments, the best epoch [model.dim, model.feed_forward, model.blocks]"
_EPOCH = 2000  # of a row of the history
_MARGIN = 1.2  # freed memory that the C library keeps: no measured training took more than its estimate with it


def require_memory_for(plan: Plan, data: PreparedData, *, at_once: int, available: int | None = None) -> None:
    """Refuse a plan whose largest training does not fit into memory, so many times as trainings run at once.

    On a GPU only what is sure to lie there is compared with its free memory: weights and what belongs to them.

    Args:
        available: bytes; None to ask the machine.

    Raises:
        OptionError: see `memory.require_memory`.
    """
    if not plan.specs:
        return
    needs, spec = max(((training_memory(spec, data), spec) for spec in plan.specs), key=lambda x: sum(x[0].values()))
    on_gpu = resolve_device(spec.device).type == "cuda"
    at_once = min(at_once, len(plan.specs) * len(plan.seeds))
    if on_gpu:
        needs = {name: size for name, size in needs.items() if name == _WEIGHTS}
    workers = 1 if on_gpu else spec.train.workers  # each has a GPU of its own
    needs = {name: size * at_once * workers for name, size in needs.items()}
    if at_once * workers > 1 and not on_gpu:
        each = _PROCESS + _bytes(data.train, data.validation, data.test)
        needs["processes that train side by side [trials_at_once, train.workers]"] = at_once * workers * each
    if available is None:
        available = torch.cuda.mem_get_info()[0] if on_gpu else available_memory()
    times = f", {at_once} at once [trials_at_once]," if at_once > 1 else ""
    require_memory(needs, f"training {spec.label}{times}", available=available)


def training_memory(spec: ArmSpec, data: PreparedData) -> dict[str, int]:
    """Bytes that a training on the CPU takes at most beyond the prepared data, by contributor; of each worker.

    The phases of a training add up: freed memory is kept for the next tensors (`training.allocator`).
    """
    model, train, n_items = spec.model, spec.train, data.train.n_items
    lengths = np.minimum(data.train.lengths, model.max_length).astype(np.float64)
    batch_size = train.batch_size / train.workers
    tokens, pairs = batch_size * lengths.mean(), batch_size * (lengths**2).mean()
    weights = _FLOAT * n_parameters(model, n_items)
    table = _FLOAT * model.dim * n_items
    kept = tokens * n_items * _FLOAT <= KEEP_BYTES
    logits = tokens * _FLOAT * (n_items if kept else min(train.item_chunk or CHUNK, n_items))
    of_a_token = model.blocks * (14 * model.dim + 4 * model.feed_forward) + 6 * model.dim
    states = tokens * of_a_token + 4 * pairs * model.blocks * model.heads
    of_an_evaluation = max(data.validation.n_users, data.test.n_users)
    evaluation_tokens = min(TOKENS_AT_ONCE, of_an_evaluation * model.max_length)
    needs = {
        "libraries": _LIBRARIES,
        _WEIGHTS: 5 * weights,
        "losses and weights of an epoch [train.steps_per_epoch, train.batch_size]": 28
        * train.steps_per_epoch
        * train.batch_size,
        "the history of the epochs [train.epochs]": _EPOCH * train.epochs,
        "histories in tensors, and whom the arm trained on": 2 * _bytes(data.validation)
        + _FLOAT * 2 * WINDOWS * data.train.n_users,
        **_of_the_method(spec, data, weights, lengths),
        "states of a batch [train.batch_size, model.max_length, model.dim, model.blocks]": _FLOAT * states,
        "logits of a batch [train.batch_size, train.item_chunk]": logits,
        "embeddings with dropout, and their gradients [model.dim]": 3 * table,
        "scores of the validation users [model.dim, model.feed_forward]": max(SCORES_AT_ONCE, n_items)
        * (_FLOAT * (3 if model.copy_window else 1) + 1)
        + _FLOAT * (of_an_evaluation * model.dim + evaluation_tokens * (6 * model.dim + model.feed_forward)),
        "a checkpoint while it is written [model.dim, model.feed_forward, model.blocks]": 8 * weights,
    }
    return {name: int(_MARGIN * size) for name, size in needs.items()}


def n_parameters(model: Model, n_items: int) -> int:
    """Number of weights of a SASRec, without those of a copy mechanism, which are few."""
    dim, inner = model.dim, model.feed_forward
    tables = (n_items + 1) * dim + model.max_length * dim + (0 if model.tied_embeddings else n_items * dim)
    block = 4 * dim * dim + 4 * dim + 2 * dim * inner + inner + dim + 4 * dim
    return tables + model.blocks * block + 2 * dim


def _of_the_method(spec: ArmSpec, data: PreparedData, weights: int, lengths: np.ndarray) -> dict[str, float]:
    """What objective and trainer take by their options."""
    options, loss, dim = spec.objective.options.model_dump(), spec.objective.loss, spec.model.dim
    if "clusters" in options:
        by_user = 2 * (dim + options["clusters"]) * data.train.n_users
        by_batch = 6 * spec.train.batch_size * options["clusters"]
        return {f"clusters [{loss}.clusters]": _FLOAT * (by_user + by_batch + 4 * options["clusters"] * dim)}
    if "n_teachers" in options:
        positions = min(options["positions"] or lengths.max(), lengths.max()) * spec.train.batch_size
        drawn = positions * (options["samples"] + 1) * (_NUMBER + _FLOAT) * options["n_teachers"]
        return {
            f"teachers [{loss}.n_teachers]": (options["n_teachers"] + 2) * weights,
            f"samples [{loss}.samples, {loss}.positions]": drawn + positions * dim * _FLOAT * options["n_teachers"],
        }
    return {}


def _bytes(*histories: Histories) -> int:
    return sum(each.items.nbytes + each.offsets.nbytes + each.users.nbytes for each in histories)
