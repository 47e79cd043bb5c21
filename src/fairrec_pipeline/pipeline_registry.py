"""Every pipeline that can be run, by name; each is built, and its nodes imported, when it is asked for."""

from collections.abc import Callable, Iterator, Mapping

from kedro.pipeline import Pipeline

from fairrec_pipeline.parameters.methods import METHODS

PAPER_METHODS = tuple(loss for loss, method in METHODS.items() if method.of_paper)
"""What `__default__` compares; every other method is trained by its name."""


class LazyPipelines(Mapping[str, Pipeline]):
    """Pipelines by name from what builds them: `data` does not wait for the import of torch, nor `train` for scipy."""

    def __init__(self, builders: Mapping[str, Callable[[], Pipeline]]) -> None:
        self._builders = builders
        self._built: dict[str, Pipeline] = {}

    def __getitem__(self, name: str) -> Pipeline:
        if name not in self._built:
            self._built[name] = self._builders[name]()
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)


def register_pipelines() -> Mapping[str, Pipeline]:
    """An explicit mapping: `find_pipelines` would import one folder only and lose the composed pipelines."""
    return LazyPipelines(
        {
            "__default__": _default,
            "data": _data,
            "train": lambda: _train("train"),
            "tune": lambda: _train("tune"),
            "experiment": _experiment,
            "compare": _compare,
            "table1": _table1,
            "recommend": _recommend,
            "promote": _promote,
        }
    )


def _default() -> Pipeline:
    from fairrec_pipeline.pipelines import compare, data, train

    trained = train.create_checked_pipeline("default", PAPER_METHODS)
    return data.create_pipeline() + trained + compare.create_pipeline(after=sorted(trained.outputs()))


def _data() -> Pipeline:
    from fairrec_pipeline.pipelines import data

    return data.create_pipeline()


def _train(plan: str) -> Pipeline:
    from fairrec_pipeline.pipelines import train

    return train.create_pipeline(plan)


def _experiment() -> Pipeline:
    from fairrec_pipeline.pipelines import compare, train

    return train.create_checked_pipeline("experiment") + compare.create_pipeline(after=["trained_arms"])


def _compare() -> Pipeline:
    from fairrec_pipeline.pipelines import compare

    return compare.create_pipeline()


def _table1() -> Pipeline:
    from fairrec_pipeline.pipelines import compare

    return compare.create_table1_pipeline()


def _recommend() -> Pipeline:
    from fairrec_pipeline.pipelines import recommend

    return recommend.create_pipeline()


def _promote() -> Pipeline:
    from fairrec_pipeline.pipelines import promote

    return promote.create_pipeline()
