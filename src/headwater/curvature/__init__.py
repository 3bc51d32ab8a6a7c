"""The curvature of a model's loss, layer by layer: K-FAC and EK-FAC of its Gauss-Newton matrix."""
