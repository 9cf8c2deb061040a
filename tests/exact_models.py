"""Models with a known posterior and log p(x), for tests of estimators."""

import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from models import VAE


class LinearGaussian(VAE):
    """p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I). q(z|x) is the exact posterior, or a shifted and wider one."""

    def __init__(self, exact):
        super().__init__(image_shape=(1, 2, 2), z_dim=2, hidden=[3])
        self.exact, self.s = exact, 0.7
        # The columns are orthogonal, so that the exact posterior is diagonal, as q is.
        self.W = torch.tensor([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]]) * torch.tensor([0.3, 0.8])
        self.b = torch.tensor([0.1, -0.2, 0.3, 0.0])

    def px(self, z, y=None):
        return Independent(Normal((z @ self.W.T + self.b).unflatten(-1, (1, 2, 2)), self.s), 3)

    def true_posterior(self, x):
        precision = 1 + self.W.square().sum(0) / self.s**2
        mean = (x.flatten(1) - self.b) @ self.W / self.s**2 / precision
        return Independent(Normal(mean, precision.rsqrt().expand(len(x), -1)), 1)

    def posterior(self, x, y=None):
        q = self.true_posterior(x)
        return q if self.exact else Independent(Normal(0.8 * q.mean, 1.3 * q.stddev), 1)

    def log_p(self, x):
        W, b = self.W.double(), self.b.double()
        cov = W @ W.T + self.s**2 * torch.eye(4, dtype=torch.float64)
        return MultivariateNormal(b, cov).log_prob(x.flatten(1).double())
