"""bfloat16 copies of the linear layers' parameters, refreshed all at once.

Autocast casts every weight and bias by a kernel of its own in each step, and every gradient back by another. For a
small model on a GPU these kernels take longer to start than to run. Here one call casts all weights, and one call all
gradients. The numbers are the same: a parameter is used once a pass, so nothing is added up in another precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HalfWeights:
    """Stands for the parameters of all `nn.Linear` of a model that are trained.

    Args:
        model: holds the parameters in single precision; they may be written in place and not be replaced.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {
            f"{name}.{part}": parameter
            for name, layer in model.named_modules()
            if isinstance(layer, nn.Linear)
            for part, parameter in layer.named_parameters()
            if parameter.requires_grad
        }
        self._copies = {
            name: parameter.detach().bfloat16().requires_grad_() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def refresh(self) -> dict[str, Tensor]:
        """Cast the parameters anew; the copies by name, for `torch.func.functional_call`."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._parameters.values()))
        return self._copies

    @torch.no_grad()
    def move_gradients(self) -> None:
        """Gradients of the copies become those of the parameters, in single precision."""
        narrow = {name: copy.grad for name, copy in self._copies.items() if copy.grad is not None}
        if not narrow:
            return
        wide = {name: torch.empty_like(self._parameters[name]) for name in narrow}
        torch._foreach_copy_(list(wide.values()), list(narrow.values()))
        for name, gradient in wide.items():
            self._parameters[name].grad, self._copies[name].grad = gradient, None
