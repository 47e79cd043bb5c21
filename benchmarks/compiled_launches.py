"""`python -m benchmarks.compiled_launches`: the kernels of a compiled step of the published job, counted without a GPU.

inductor writes the Triton kernels of the step as it would on an H200, and none is called: the functions to compile are
moved to a CUDA device that is not there, their results are zeros, and what the code would launch is counted in it.
What Python launches beside them is counted as in `benchmarks.launches`. Needs torch with CUDA, and Triton.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional

from benchmarks.launches import POSITIONS, Launches, make_recorded_steps, show
from benchmarks.workloads import PUBLISHED
from fairrec_pipeline.models import attention
from fairrec_pipeline.models.packing import Ragged
from fairrec_pipeline.training import compiled as compiled_module
from fairrec_pipeline.training.compiled import CompiledStep

CUDA = torch.device("cuda", 0)
H200 = SimpleNamespace(
    name="NVIDIA H200", multi_processor_count=132, major=9, minor=0, regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048, max_threads_per_block=1024, warp_size=32, total_memory=140 * 2**30,
    shared_memory_per_block=48 * 2**10, shared_memory_per_block_optin=227 * 2**10, L2_cache_size=60 * 2**20,
    gcnArchName="",
)  # fmt: skip
_CALL = re.compile(r"(triton_\w+|extern_kernels\.\w+|torch\.ops\.[\w.]+|aten\.[\w.]+)(?:\.run)?\(")
"""A launch in the code that inductor writes."""


class _CodeError(BaseException):
    """The code is written; what follows would need a GPU."""


def compiled_step_launches(
    loss: str = "erm", *, sizes: dict[str, Any] | None = None, n_items: int = 17_803
) -> Counter[str]:
    """Kernels of a compiled step by name, with the optimiser's as one; the arguments are those of `step_launches`."""
    counting, kernels = Launches(), Counter[str]()
    with _written_for_cuda(counting, kernels):
        runner = make_recorded_steps(loss, torch.device("cpu"), sizes or PUBLISHED, n_items, CompiledStep)
        runner.launch(POSITIONS, 0)  # each function is called once a step, and written now
        with counting:
            runner.launch(POSITIONS, 1)
    return kernels + counting.counts + Counter({"fused Adam": 1})


@contextlib.contextmanager
def _written_for_cuda(counting: Launches, kernels: Counter[str]) -> Iterator[None]:
    """What is compiled in here is written for an H200 and counted; its results are fake."""
    from torch._dynamo.device_interface import CudaInterface
    from torch._inductor import compile_fx, config
    from torch._inductor.graph import GraphLowering
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import _disable_current_modes

    def only_write(graph: GraphLowering) -> None:
        code = graph.codegen()[0]
        text = code if isinstance(code, str) else code.value
        kernels.update(_CALL.findall(text[text.index("def call(") :]))
        raise _CodeError

    def write(module: torch.fx.GraphModule, inputs: list[Any], **options: Any) -> Any:
        with counting.paused():
            moved = _moved_to_cuda(module, inputs)
            with contextlib.suppress(_CodeError):
                compile_fx.compile_fx_inner(*moved, **options)

        def run(arguments: list[Any]) -> Any:
            with counting.paused():
                with FakeTensorMode() as mode:
                    fake = module(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments))
                return [torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, torch.Tensor) else x for x in fake]

        run._boxed_call = True  # type: ignore[attr-defined]
        return run

    @cache
    def compiled(function: Any, *, few_positions: bool = False) -> Any:
        options = compiled_module.options(few_positions=few_positions)

        def backend(module: torch.fx.GraphModule, inputs: list[Any]) -> Any:
            with config.patch(options):
                return compile_fx.compile_fx(module, inputs, inner_compile=write)

        made = torch.compile(function, fullgraph=True, backend=backend)

        def call(*arguments: Any) -> Any:
            with _disable_current_modes():  # else it would not be compiled
                return made(*arguments)

        return call

    found = {"get_device_properties": H200, "get_compute_capability": 90, "is_available": True, "current_device": 0}
    found["is_bf16_supported"] = True
    patches = [mock.patch.object(CudaInterface, name, _returns(value)) for name, value in found.items()]
    patches += [
        mock.patch.object(CudaInterface.Worker, "get_device_properties", _returns(H200)),
        mock.patch.object(torch.cuda, "get_device_properties", _returns(H200)),
        mock.patch.object(torch.cuda, "get_device_capability", _returns((9, 0))),
        mock.patch.object(torch.cuda, "current_device", _returns(0)),
        mock.patch("torch.utils._triton.triton_hash_with_backend", _returns("")),
        mock.patch("torch._inductor.scheduler.has_triton", lambda: True),  # it is asked once a process, for a device
        mock.patch.object(GraphLowering, "compile_to_module", only_write),
        mock.patch.object(compiled_module, "compiled", compiled),
        # what autocast does to linear layers on CUDA, and the kernel of attention there
        mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()),
        mock.patch.object(nn.Linear, "forward", _linear),
        mock.patch.object(attention, "_ragged_attention", _ragged_attention),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _returns(value: Any) -> Any:
    return staticmethod(lambda *_, **__: value)


def _moved_to_cuda(module: torch.fx.GraphModule, inputs: list[Any]) -> tuple[torch.fx.GraphModule, list[Any]]:
    """A graph and its fake inputs as they would be on CUDA."""
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    def moved(x: Any) -> Any:
        return CUDA if isinstance(x, torch.device) else x

    graph = copy.deepcopy(module)
    for node in graph.graph.nodes:
        node.args, node.kwargs = (torch.fx.node.map_aggregate(part, moved) for part in (node.args, node.kwargs))
    mode = torch._guards.detect_fake_mode(inputs)
    with mode:
        there = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA) if isinstance(x, torch.Tensor) else x
            for x in inputs
        ]
    FakeTensorProp(graph, mode=mode).propagate_dont_convert_inputs(*there)
    return graph, there


def _linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x.bfloat16(), layer.weight, layer.bias)


def _ragged_attention(qkv: torch.Tensor, sequences: Ragged, heads: int, rate: float) -> torch.Tensor:
    q, k, v = (part.unflatten(1, (heads, -1)) for part in qkv.chunk(3, 1))
    offsets, longest = sequences.offsets, sequences.longest
    arguments = (q, k, v, offsets, offsets, longest, longest, rate, True, False)
    attended: torch.Tensor = torch.ops.aten._flash_attention_forward(*arguments)[0]
    return attended.flatten(1)


def main(arguments: list[str] | None = None) -> None:
    show("benchmarks.compiled_launches", __doc__, compiled_step_launches, arguments)


if __name__ == "__main__":
    main()
