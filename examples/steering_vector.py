"""A controller of one's own: a code adds a vector to the residual stream, as in activation steering."""

from flax import nnx

from internal_rl.models.layers import linear


class SteeringVector(nnx.Module):
    def __init__(self, width, code, rngs):
        self.vector = linear(code, width, 0.01, rngs)

    def __call__(self, e, code):
        return e + self.vector(code)
