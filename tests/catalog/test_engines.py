"""Engines that the catalog names and that cannot be had."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from fairrec_pipeline.catalog.files import Engine
from fairrec_pipeline.cli import mistake_in

SPARK = Engine({"backend": "pyspark", "spark.sql.shuffle.partitions": "2"})


def said() -> str:
    with pytest.raises(Exception, match="the catalog asks for Spark") as caught:
        SPARK.load()
    message = mistake_in(caught.value)
    assert message is not None
    assert message.endswith("a Java of version 17 or later; or leave out --env=spark")
    return message


def test_spark_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    assert "it cannot be imported" in said()


def test_spark_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without Java: pyspark itself can be imported then."""

    class PySparkException(Exception):
        pass

    def start(**_: Any) -> None:
        message = "[JAVA_GATEWAY_EXITED] Java gateway process exited"
        raise PySparkException(message)

    for name, content in (
        ("pyspark", {}),
        ("pyspark.errors", {"PySparkException": PySparkException}),
        ("fairrec_pipeline.interactions.spark", {"spark": start}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    assert "it does not start ([JAVA_GATEWAY_EXITED] Java gateway process exited)" in said()
