"""`python -m fairrec_pipeline.serving --model <folder or models:/name@alias>`: recommendations over HTTP."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fairrec_pipeline.serving.model_folder import ModelFolder, ModelFolderError, open_folder
from fairrec_pipeline.serving.settings import SETTINGS, Settings

_MEGABYTE = 2**20


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _serve(_open(options.model), options)
    except ModelFolderError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def _open(model: str) -> ModelFolder:
    """The folder of `--model`.

    Raises:
        ModelFolderError: it cannot be served.
    """
    if not model.startswith(("models:/", "runs:/")):
        return open_folder(model)
    from fairrec_pipeline.serving.mlflow_model import local_folder  # a folder needs no MLflow

    return open_folder(local_folder(model))


def _serve(folder: ModelFolder, options: argparse.Namespace) -> None:
    """Serve until a signal comes.

    Raises:
        ModelFolderError: the model cannot be loaded.
    """
    import uvicorn

    if not _is_loopback(options.host):
        sys.stderr.write(f"{options.host} is reachable from other machines, and nobody is asked for a password\n")
    sys.stderr.write(
        f"Serving {folder.config.label}: http://{options.host}:{options.port}/recommend, "
        f"{options.workers} worker{'s' * (options.workers > 1)}, backend {options.backend}\n"
    )
    with tempfile.TemporaryDirectory() as scratch:
        refusal = Path(scratch, "refusal")
        settings = Settings(
            folder=str(folder.path),
            backend=options.backend,
            body_bytes=options.max_body_mb * _MEGABYTE,
            refusal=str(refusal) if options.workers > 1 else None,
        )
        os.environ[SETTINGS] = settings.model_dump_json()
        uvicorn.run(
            "fairrec_pipeline.serving.app:app_of_worker",
            factory=True,
            host=options.host,
            port=options.port,
            workers=options.workers,
            log_level="warning",
            access_log=False,
            server_header=False,
        )
        if refusal.exists():
            raise ModelFolderError(refusal.read_text(encoding="utf-8"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fairrec_pipeline.serving", description=__doc__)
    parser.add_argument("--model", required=True, help="folder with model.safetensors and config.json, or models:/...")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=_number(1, 65_535), default=8000, help="(default %(default)s)")
    parser.add_argument(
        "--workers", type=_number(1, 1024), default=1, help="processes; one a core (default %(default)s)"
    )
    parser.add_argument("--backend", choices=("torch", "onnx"), default="torch", help="(default %(default)s)")
    parser.add_argument(
        "--max-body-mb", type=_number(1, 1024), default=4, help="largest request in MiB (default %(default)s)"
    )
    return parser


def _number(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"should be a whole number from {least} to {most}, got {text!r}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
