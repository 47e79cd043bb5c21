"""Project settings of Kedro: how parameters are merged and checked, and which hooks run."""

import gc
import os
import warnings

from fairrec_pipeline.hooks.check_plan import PlanCheck
from fairrec_pipeline.hooks.check_storage import StorageCheck
from fairrec_pipeline.hooks.prepare_data import DataPreparation
from fairrec_pipeline.hooks.show_results import TerminalTable
from fairrec_pipeline.hooks.tracking import Tracking
from fairrec_pipeline.parameters.loader import ParameterLoader
from fairrec_pipeline.parameters.methods import arm_name, recommended_folder

# Threads that wait give their core away: a few percent slower alone, twice as fast where another process runs
# (synthetic world, 2 cores). It is read when torch is imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# what is imported stays: to look through it for garbage after every 700 objects is a fifth of the time of the imports
gc.set_threshold(50_000)

# kedro-mlflow's hook is called by `Tracking`, which logs an arm and not a node
DISABLE_HOOKS_FOR_PLUGINS = ("kedro_mlflow",)
# the last is called first: what cannot be trained or stored is refused, then data are prepared, then the run is tracked
HOOKS = (Tracking(), DataPreparation(), StorageCheck(), PlanCheck(), TerminalTable())

# known and harmless: of other projects' code, or of names that a namespace gives
for message in (
    r"register_new_resolver\(\) is deprecated",
    "One or more dataset names contain '.' characters",
    r".*Add type hints to the `predict` method",
):
    warnings.filterwarnings("ignore", message=message)

CONFIG_LOADER_CLASS = ParameterLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # without it an environment that sets train.epochs would drop the rest of train
    "merge_strategy": {"parameters": "soft", "globals": "soft", "mlflow": "soft"},
    "custom_resolvers": {
        "arm_name": arm_name,
        "recommended_arm": lambda arm, chosen: arm or chosen,
        "recommended_folder": recommended_folder,
    },
}
