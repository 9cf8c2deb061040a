"""Models with a known posterior and log p(x), for tests of estimators."""

import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from models import VAE
from models.implicit import ImplicitModel


class LinearGaussian(VAE):
    """p(z) = N(0, I), p(x|z) = N(W z + b, s^2 I). q(z|x) is the exact posterior, or a shifted and wider one."""

    takes_pixels = False

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


class LinearGenerator(ImplicitModel):
    """g(z) = W z + b with z ~ N(0, I): under p(x|z) = N(g(z), s^2 I), p(x) is N(b, W W^T + s^2 I)."""

    def __init__(self, image_shape=(1, 2, 2), z_dim=2, spread=0.2):
        super().__init__()
        W = torch.tensor([[1.0, 0.5], [0.5, -1.0], [-0.7, 0.3], [0.2, 0.9]]) * spread
        self.W = torch.nn.Parameter(W)
        self.register_buffer("b", torch.full((4,), 0.5))

    def prior(self):
        return Independent(Normal(torch.zeros(2), torch.ones(2)), 1)

    def generate(self, z):
        return (z @ self.W.T + self.b).unflatten(-1, (1, 2, 2))

    def log_p(self, x, s):
        W = self.W.detach().double()
        cov = W @ W.T + s**2 * torch.eye(4, dtype=torch.float64)
        return MultivariateNormal(self.b.double(), cov).log_prob(x.flatten(1).double())

    def images(self, n, s, seed=1):
        """Return n images x ~ p(x) with scale s, within [0, 1] but for rare pixels, which are clamped."""
        generator = torch.Generator().manual_seed(seed)
        z, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 1, 2, 2, generator=generator)
        return (self.generate(z).detach() + s * noise).clamp(0, 1)
