"""Imported by Python itself where this folder is on PYTHONPATH: what runs the code of a file or a text fails.

Others may call some of it on what is no file: `multiprocessing` unpickles from pipes, `namedtuple` evaluates its class.
What failed is also written into the file that FAIRREC_GUARD names, should somebody catch the error.
"""

import builtins
import importlib.util
import io
import os
import pickle
import stat
import sys


def _refuse(name, caller):
    if path := os.environ.get("FAIRREC_GUARD"):
        with open(path, "a") as file:
            file.write(f"{name} called by {caller}\n")
    message = f"{name} was called by {caller}"
    raise RuntimeError(message)


def _is_ours(caller):
    return caller.partition(".")[0] == "fairrec_pipeline"


def _is_regular(file):
    try:
        return stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except (AttributeError, OSError, io.UnsupportedOperation):
        return False


def _guarded(name, function, refused):
    def call(*arguments, **options):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if refused(caller, arguments):
            _refuse(name, caller)
        return function(*arguments, **options)

    return call


def _always(caller, arguments):
    return True


def _from_us(caller, arguments):
    return _is_ours(caller)


def _from_us_or_of_a_file(caller, arguments):
    return _is_ours(caller) or (bool(arguments) and _is_regular(arguments[0]))


pickle.load = _guarded("pickle.load", pickle.load, _from_us_or_of_a_file)
pickle.loads = _guarded("pickle.loads", pickle.loads, _from_us)
os.system = _guarded("os.system", os.system, _always)
os.popen = _guarded("os.popen", os.popen, _always)
_eval = builtins.eval


def _eval_of_others(*arguments):
    frame = sys._getframe(1)
    caller = frame.f_globals.get("__name__", "")
    if _is_ours(caller):
        _refuse("eval", caller)
    scopes = arguments[1:] or (frame.f_globals, frame.f_locals)  # of the caller, as the built-in has them
    return _eval(arguments[0], *scopes)


builtins.eval = _eval_of_others
_LATER = {
    "torch.serialization": ("load",),
    "yaml": ("unsafe_load", "unsafe_load_all"),
    "joblib.numpy_pickle": ("load",),
}


class _Finder:
    """Guards functions of modules that are imported later."""

    def find_spec(self, name, path=None, target=None):
        if name not in _LATER:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_guard(module):
            execute(module)
            for function in _LATER[name]:
                setattr(module, function, _guarded(f"{name}.{function}", getattr(module, function), _always))

        spec.loader.exec_module = execute_and_guard
        return spec


sys.meta_path.insert(0, _Finder())
