"""Every pipeline that can be run, by name; each is built, and its nodes imported, when it is asked for."""

from collections.abc import Callable, Iterator, Mapping

from kedro.pipeline import Pipeline

PAPER_LOSSES = ("erm", "cb", "cb_log", "ipw", "ipw_log", "gdro", "sdro", "cvar")
"""The methods of the paper, which `__default__` compares; every other one is trained by its name."""


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
            "train": _train,
            "tune": _tune,
            "experiment": _experiment,
            "compare": _compare,
            "table1": _table1,
            "recommend": _recommend,
        }
    )


def _default() -> Pipeline:
    from fairrec_pipeline.pipelines import compare, data, train

    arms = [train.create_arm_pipeline(loss) for loss in PAPER_LOSSES]
    trained = [name for arm in arms for name in sorted(arm.outputs()) if name.endswith("user_metrics")]
    return data.create_pipeline() + sum(arms, Pipeline([])) + compare.create_pipeline(after=trained)


def _data() -> Pipeline:
    from fairrec_pipeline.pipelines import data

    return data.create_pipeline()


def _train() -> Pipeline:
    from fairrec_pipeline.pipelines import train

    return train.create_pipeline()


def _tune() -> Pipeline:
    from fairrec_pipeline.pipelines import train

    return train.create_tune_pipeline()


def _experiment() -> Pipeline:
    from fairrec_pipeline.pipelines import experiment

    return experiment.create_pipeline()


def _compare() -> Pipeline:
    from fairrec_pipeline.pipelines import compare

    return compare.create_pipeline()


def _table1() -> Pipeline:
    from fairrec_pipeline.pipelines import table1

    return table1.create_pipeline()


def _recommend() -> Pipeline:
    from fairrec_pipeline.pipelines import recommend

    return recommend.create_pipeline()
