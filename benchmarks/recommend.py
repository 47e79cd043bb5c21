"""`python -m benchmarks.recommend`: seconds and peak memory of recommending to very many users, as `name=value`.

The model is random, with 100,000 items and the small backbone; the users are generated, with 4 to 16 interactions each.
Every size runs in a process of its own, from the Parquet file of the interactions to that of the recommendations, as
the recommend pipeline does. Its peak memory includes Python, torch and DuckDB.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.__main__ import RESULTS, _commit, _device, _versions
from benchmarks.serving import BACKBONE

N_ITEMS = 100_000
SIZES = (10_000, 100_000, 1_000_000)
K = 20
_USERS_AT_ONCE = 50_000


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.one:
        print(json.dumps(recommend(Path(options.one))))
        return
    command = " ".join(["python -m benchmarks.recommend", *(sys.argv[1:] if arguments is None else arguments)])
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "commit": _commit(), "command": command}
    record |= {"device": _device(1), "versions": _versions(), "load_average": os.getloadavg()}
    record |= {"backbone": BACKBONE, "n_items": options.items, "k": K, "sizes": []}
    lines = []
    for n_users in options.users:
        with tempfile.TemporaryDirectory() as temporary:
            write_world(Path(temporary), n_users, options.items)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.recommend", "--one", temporary], check=True, stdout=subprocess.PIPE
            )
        result = {"n_users": n_users, **json.loads(done.stdout)}
        record["sizes"].append(result)
        lines += [f"recommend_{n_users}_{name}={value:.1f}" for name, value in result.items() if name != "n_users"]
        print("\n".join(lines[-4:]), flush=True)
    record["load_average_after"] = os.getloadavg()
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")
        print(f"record: {options.output}")


def write_world(folder: Path, n_users: int, n_items: int) -> None:
    """A random model, and the interactions of so many users in their order."""
    import torch
    from safetensors.torch import save_file

    from fairrec_pipeline.models.sasrec import SASRec

    torch.manual_seed(0)
    model = SASRec(n_items, **BACKBONE)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config = {
        "format": 2, "architecture": "SASRec", "arm": "erm", "seed": 0, "dataset": "generated", "data_fingerprint": "",
        "filter_seen": False, "backbone": {"n_items": n_items, **BACKBONE}, "catalogue": list(range(n_items)),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    schema = pa.schema([("user_id", pa.int64()), ("item_id", pa.int64())])
    with pq.ParquetWriter(folder / "interactions.parquet", schema) as writer:
        for start in range(0, n_users, _USERS_AT_ONCE):
            lengths = rng.integers(4, 17, size=min(_USERS_AT_ONCE, n_users - start))
            users = np.repeat(start + np.arange(len(lengths)), lengths)
            items = (n_items * rng.random(len(users)) ** 3).astype(np.int64)  # some items are popular
            writer.write_table(pa.table([users, items], schema=schema))


def recommend(folder: Path) -> dict[str, float]:
    """Read, recommend and write, on one thread; seconds, CPU seconds, peak MiB, and lists that were written."""
    import torch

    from fairrec_pipeline.catalog.files import IbisParquet, ParquetFrames
    from fairrec_pipeline.interactions.histories import stream_histories
    from fairrec_pipeline.serving.batch import recommend_in_frames
    from fairrec_pipeline.serving.recommender import Recommender

    torch.set_num_threads(1)
    begun = time.perf_counter()
    interactions = IbisParquet(filepath=str(folder / "interactions.parquet")).load()
    output = ParquetFrames(filepath=str(folder / "recommendations.parquet"))
    output.save(recommend_in_frames(Recommender.load(folder), stream_histories(interactions), K))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mib": used.ru_maxrss / 1024,
        "lists": pq.read_metadata(folder / "recommendations.parquet").num_rows / K,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recommend", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=SIZES, help="(default %(default)s)")
    parser.add_argument("--items", type=int, default=N_ITEMS, help="(default %(default)s)")
    parser.add_argument(
        "--output", type=Path, help=f"file of the record, such as {RESULTS}/<date>-<machine>-recommend.json"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
