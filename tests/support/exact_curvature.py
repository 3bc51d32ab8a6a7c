"""K-FAC and EK-FAC of a few linear layers without a bias, densely and in float64, by autograd."""

import torch


class Sums:
    """What goes through each layer, and comes back, at each probe."""

    def __init__(self, layers):
        self.layers = layers
        self.inputs = {name: 0.0 for name in layers}
        self.outputs = {name: 0.0 for name in layers}
        self.tokens = {name: 0 for name in layers}
        self.gradients = {name: [] for name in layers}

    def add(self, loss_of):
        """A probe: `loss_of()` runs the network and returns a number."""
        seen = {}
        hooks = [
            layer.register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: (args[0].detach(), out)})
            )
            for name, layer in self.layers.items()
        ]
        loss = loss_of()
        for hook in hooks:
            hook.remove()
        outs = [seen[name][1] for name in self.layers]
        weights = [layer.weight for layer in self.layers.values()]
        found = torch.autograd.grad(loss, [*outs, *weights])
        for name, gy, g in zip(self.layers, found[: len(outs)], found[len(outs) :], strict=True):
            x, gy = seen[name][0].flatten(0, -2), gy.flatten(0, -2)
            self.inputs[name] += x.T @ x
            self.outputs[name] += gy.T @ gy
            self.tokens[name] += len(x)
            self.gradients[name].append(g)

    def matrix(self, name, kind):
        """F of a layer, for the gradient flattened row by row."""
        count = len(self.gradients[name])
        a_values, a = torch.linalg.eigh(self.inputs[name] / self.tokens[name])
        s_values, s = torch.linalg.eigh(self.outputs[name] / count)
        moments = torch.outer(s_values, a_values)
        if kind == "ekfac":
            moments = sum((s.T @ g @ a).square() for g in self.gradients[name]) / count
        turn = torch.kron(s, a)
        return turn @ torch.diag(moments.flatten()) @ turn.T

    def solved(self, rows, kind, ratio):
        """(F + lambda)^-1 of rows that join the layers' gradients, layer by layer."""
        parts = []
        sizes = [layer.weight.numel() for layer in self.layers.values()]
        for name, part in zip(self.layers, rows.split(sizes, 1), strict=True):
            f = self.matrix(name, kind)
            damped = f + ratio * f.diagonal().mean() * torch.eye(len(f)).double()
            parts.append(torch.linalg.solve(damped, part.T).T)
        return torch.cat(parts, 1)
