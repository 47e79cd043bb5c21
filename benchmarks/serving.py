"""`python -m benchmarks.serving`: requests a second, latencies, memory and start-up of the server, as `name=value`.

The model is generated, of RetailRocket's size and with the small backbone; the histories have its lengths, cut
to 200 items. The load comes from a process of its own on the same cores, over kept connections: every client sends its
next request when it has the answer to the last one. So what other work on the machine takes is in all numbers but one:
the CPU milliseconds that the workers use for a request.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import RESULTS, _commit, _device, _versions
from benchmarks.workloads import generated_like

BACKBONE = {
    "dim": 64, "feed_forward": 64, "blocks": 1, "heads": 1, "dropout": 0.25, "max_length": 200, "init_std": 0.02,
    "tied_embeddings": True, "copy_window": 50,
}  # fmt: skip
LONGEST = 200
CLIENTS, BATCHES = (1, 8, 64), (1, 64)
_WARM_UP_SECONDS = 0.5
_BODIES = 256


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    command = " ".join(["python -m benchmarks.serving", *(sys.argv[1:] if arguments is None else arguments)])
    record: dict[str, Any] = {"date": datetime.date.today().isoformat(), "commit": _commit(), "command": command}
    record |= {"device": _device(1), "versions": _versions(), "load_average": os.getloadavg()}
    record |= {"backbone": BACKBONE, "seconds": options.seconds, "servers": []}
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, histories = write_model(Path(temporary))
        if "onnx" in options.backends:
            from fairrec_pipeline.serving.onnx_export import export

            export(folder)
        for backend, workers in product(options.backends, options.workers):
            result = measure(folder, histories, backend, workers, options)
            record["servers"].append(result)
            lines += _lines(result)
    record["load_average_after"] = os.getloadavg()
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=1) + "\n")
        print(f"record: {options.output}")
    print("\n".join(lines))


def write_model(folder: Path) -> tuple[Path, list[list[int]]]:
    """A random model of RetailRocket's size, and histories over its items."""
    import torch
    from safetensors.torch import save_file

    from fairrec_pipeline.models.sasrec import SASRec

    train, _ = generated_like("retailrocket")
    torch.manual_seed(0)
    model = SASRec(train.n_items, **BACKBONE)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    config = {
        "format": 2, "architecture": "SASRec", "arm": "erm", "seed": 0, "dataset": "generated", "data_fingerprint": "",
        "filter_seen": False, "backbone": {"n_items": train.n_items, **BACKBONE}, "catalogue": train.catalogue.tolist(),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder, [history[-LONGEST:].tolist() for history in np.split(train.items, train.offsets[1:-1])]


def measure(
    folder: Path, histories: list[list[int]], backend: str, workers: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Start a server, load it in every combination of clients and batch, and look at its workers at the end."""
    with server(folder, backend, workers) as (port, process, ready):
        of_workers = [process] if workers == 1 else _children(process)
        loads = []
        for batch, clients in product(options.batches, options.clients):
            used = _cpu_seconds(of_workers)
            row = asyncio.run(load(port, bodies(histories, batch), clients, options.seconds))
            cpu_ms = 1000 * (_cpu_seconds(of_workers) - used) / row.pop("answered")
            loads.append({"clients": clients, "batch": batch, **row, "cpu_ms": cpu_ms})
        return {
            "backend": backend, "workers": workers, "ready_seconds": ready, "loads": loads,
            "worker_mib": memory(of_workers),
        }  # fmt: skip


@contextlib.contextmanager
def server(folder: Path, backend: str, workers: int) -> Iterator[tuple[int, int, float]]:
    """A server on a free port: port, process and the seconds from its start to its first answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "fairrec_pipeline.serving", "--model", str(folder), "--port", str(port)]
    begun = time.perf_counter()
    with subprocess.Popen([*command, "--backend", backend, "--workers", str(workers)]) as process:
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except OSError as error:
                    if process.poll() is not None:
                        message = f"the server ended with {process.returncode}"
                        raise RuntimeError(message) from error
                    time.sleep(0.01)
            ready = time.perf_counter() - begun
            time.sleep(2 * (workers > 1))  # the first worker has answered, the others load
            yield port, process.pid, ready
        finally:
            process.send_signal(signal.SIGTERM)


def bodies(histories: list[list[int]], batch: int) -> list[bytes]:
    """Complete HTTP requests, each of as many random histories."""
    rng = np.random.default_rng(batch)
    chosen = rng.integers(0, len(histories), size=(_BODIES, batch)).tolist()
    contents = [json.dumps({"inputs": [{"history": histories[user]} for user in users]}).encode() for users in chosen]
    head = "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    return [head.format(len(content)).encode() + content for content in contents]


class Client(asyncio.Protocol):
    """Sends a request, waits for its answer, sends the next.

    Attributes:
        sent: of every answered request the moment it was sent, and `took` the seconds to its answer.
    """

    def __init__(self, requests: list[bytes], number: int) -> None:
        self._requests, self._next, self._buffer = requests, number, bytearray()
        self.sent: list[float] = []
        self.took: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        assert head.startswith(b"http/1.1 200"), bytes(self._buffer[:300])
        self.sent.append(self._begun)
        self.took.append(time.perf_counter() - self._begun)
        self._buffer.clear()
        self._send()

    def _send(self) -> None:
        self._begun = time.perf_counter()
        self._transport.write(self._requests[self._next % len(self._requests)])
        self._next += 1

    def close(self) -> None:
        self._transport.close()


async def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Requests a second and quantiles of the milliseconds after a warm-up; how many were answered, with the warm-up."""
    loop = asyncio.get_running_loop()
    connections = [
        loop.create_connection(lambda n=number: Client(requests, 7 * n), "127.0.0.1", port) for number in range(clients)
    ]
    protocols: list[Any] = [protocol for _, protocol in await asyncio.gather(*connections)]
    await asyncio.sleep(_WARM_UP_SECONDS)
    begun = time.perf_counter()
    await asyncio.sleep(seconds)
    lasted = time.perf_counter() - begun
    answered = sum(len(protocol.took) for protocol in protocols)
    took = np.array(
        [took for p in protocols for sent, took in zip(p.sent, p.took, strict=True) if begun <= sent < begun + lasted]
    )
    for protocol in protocols:
        protocol.close()
    p50, p99 = 1000 * np.quantile(took, [0.5, 0.99])
    return {
        "requests_per_second": len(took) / lasted, "p50_ms": float(p50), "p99_ms": float(p99), "answered": answered
    }  # fmt: skip


def memory(workers: list[int]) -> dict[str, float]:
    """Resident MiB of the largest worker, and its share where pages are shared (PSS)."""
    sizes = [(_kibibytes(pid, "status", "VmRSS:"), _kibibytes(pid, "smaps_rollup", "Pss:")) for pid in workers]
    resident, shared = max(sizes)
    return {"resident": resident / 1024, "proportional": shared / 1024}


def _cpu_seconds(processes: list[int]) -> float:
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split() for pid in processes]
    return sum(int(of_one[11]) + int(of_one[12]) for of_one in fields) / os.sysconf("SC_CLK_TCK")


def _children(process: int) -> list[int]:
    """The workers: what multiprocessing started beside its tracker of resources."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(pid) for pid in children if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()]


def _kibibytes(process: int, file: str, field: str) -> int:
    lines = Path(f"/proc/{process}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def _lines(result: dict[str, Any]) -> list[str]:
    name = f"{result['backend']}_{result['workers']}w"
    lines = [
        f"{name}_ready_seconds={result['ready_seconds']:.2f}",
        f"{name}_worker_mib={result['worker_mib']['resident']:.0f}",
    ]
    for row in result["loads"]:
        cell = f"{name}_{row['clients']}c_batch{row['batch']}"
        lines.append(f"{cell}_requests_per_second={row['requests_per_second']:.0f}")
        lines += [f"{cell}_{quantile}_ms={row[f'{quantile}_ms']:.2f}" for quantile in ("p50", "p99", "cpu")]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--backends", nargs="+", default=["torch"], choices=("torch", "onnx"), help="(default torch)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes (default 1 2)")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="at a time (default 1 8 64)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="histories a request (default 1 64)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load (default %(default)s)")
    parser.add_argument(
        "--output", type=Path, help=f"file of the record, such as {RESULTS}/<date>-<machine>-serving.json"
    )
    return parser


if __name__ == "__main__":
    main()
