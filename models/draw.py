"""DRAW, a recurrent model that draws images in steps."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from models.arguments import as_count
from models.bound_model import BoundModel
from models.distributions import LATENT_LIMIT, at_least_float32, soft_clip, standard_normal
from models.networks.attention import Grid
from models.networks.canvas import AttentionCanvas, WholeCanvas
from models.networks.layers import ImageShape, glorot
from models.networks.recurrent import lstm, lstm_layer
from models.objectives import BOUNDS

READ_SIZE, WRITE_SIZE = 5, 5  # defaults with attention
STATISTICS_SAMPLES = 16  # of the KL that `latent_statistics` returns


class State(NamedTuple):
    """The state after a step."""

    h_enc: Tensor  # output of the encoder, (..., B, R)
    cell_enc: Tensor  # (..., B, R)
    h_dec: Tensor  # output of the decoder, (..., B, R)
    cell_dec: Tensor  # (..., B, R)
    outputs: Tensor  # of the layer of the canvas for h_dec, (..., B, D)
    canvas: Tensor  # (..., B, C, H, W)


class Step(NamedTuple):
    """A step of inference: the state after it, z_t, and the mean and scale of q(z_t|x, z_1 ... z_t-1)."""

    state: State
    z: Tensor  # (..., B, z_dim)
    mu: Tensor
    sigma: Tensor


class Path(NamedTuple):
    """All latents of a pass through all steps, the parameters of their posteriors, and the last canvas."""

    z: Tensor  # (..., B, T, z_dim)
    mu: Tensor  # (..., B, T, z_dim)
    sigma: Tensor  # (..., B, T, z_dim)
    canvas: Tensor  # (..., B, C, H, W)

    def log_ratio(self) -> Tensor:
        """Return log p(z) - log q(z|x), `(..., B)`, for the prior N(0, I)."""
        noise = (self.z - self.mu) / self.sigma
        return (0.5 * (noise.square() - self.z.square()) + self.sigma.log()).sum((-1, -2))

    def kl(self) -> Tensor:
        """Return KL(q(z_t|x, z_1 ... z_t-1) || N(0, I)) of each dimension, `(..., B, T, z_dim)`."""
        return 0.5 * (self.mu.square() + self.sigma.square() - 1) - self.sigma.log()


class Steps(NamedTuple):
    """What DRAW does at each of its T steps, for n images.

    A window is (centre x, centre y, side length, standard deviation of the filters) in pixels. The first pixel has its
    centre at 0. The side length is the distance between the outermost filters.
    """

    canvas: Tensor  # mean images after each step, (T, n, C, H, W) in [0, 1]
    read: Tensor | None  # windows, (T, n, 4); None without attention or without an image to read
    write: Tensor | None  # windows, (T, n, 4); None without attention


def window(grid: Grid, N: int) -> Tensor:
    """Return the window of a grid of N x N filters, `(..., 4)`, as in `Steps`."""
    return torch.stack([grid.x - 1, grid.y - 1, (N - 1) * grid.stride, grid.variance.sqrt()], -1)


class DRAWPosterior(Distribution):
    """q(z|x) = prod_t N(z_t; mu_t, diag(sigma_t^2)), where mu_t and sigma_t depend on x and on z_1 ... z_t-1.

    The encoder takes part in the recurrence: all methods run it, once per sample. What does not depend on z is computed
    once per image, here.

    Args:
        model: The model.
        x: Images `(B, C, H, W)`.
    """

    arg_constraints: ClassVar[dict] = {}  # arguments are not validated
    has_rsample = True

    def __init__(self, model: "DRAW", x: Tensor):
        super().__init__(x.shape[:1], torch.Size([model.latent_dim]))
        self.model, self.x, self.gates_x = model, x, model.gates_of_image(x)

    def steps(self, choose: Callable[[int, Tensor, Tensor], Tensor]) -> Iterator[Step]:
        """Return an iterator over the T steps, with z_t = choose(t, mu_t, sigma_t), t = 0 ... T - 1."""
        return self.model.inference_steps(self.x, self.gates_x, choose)

    def path(self, choose: Callable[[int, Tensor, Tensor], Tensor]) -> Path:
        """Return all steps with z_t = choose(t, mu_t, sigma_t). Only the last canvas is kept."""
        latents = []
        for step in self.steps(choose):
            latents.append((step.z, step.mu, step.sigma))
            canvas = step.state.canvas
        z, mu, sigma = (torch.stack(part, -2) for part in zip(*latents, strict=True))
        return Path(z, mu, sigma, canvas)

    def rsample_path(self, sample_shape: Any = ()) -> Path:
        """Return a pass through all steps with sampled latents, `(*sample_shape, B, T, z_dim)`."""
        shape = (*torch.Size(sample_shape), *self.batch_shape, *self.model.code_shape)
        noise = torch.randn(shape, device=self.x.device, dtype=self.x.dtype).unbind(-2)
        return self.path(lambda t, mu, sigma: mu + sigma * noise[t])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample_path(sample_shape).z.flatten(-2)

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Return samples z `(samples..., B, d)` and log q(z|x) `(samples..., B)`, in one pass."""
        path = self.rsample_path(sample_shape)
        z = path.z.flatten(-2)
        return z, self.model.prior().log_prob(z) - path.log_ratio()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(z|x) for `z (..., B, d)` in nats, `(..., B)`."""
        z = value.unflatten(-1, self.model.code_shape).unbind(-2)
        path = self.path(lambda t, mu, sigma: z[t])
        return self.model.prior().log_prob(value) - path.log_ratio()

    @property
    def mean(self) -> Tensor:
        """The codes `(B, d)` with each z_t at its mean given the steps before it, which is close to the mean of q."""
        return self.path(lambda t, mu, sigma: mu).z.flatten(-2)


class DRAW(BoundModel):
    """Deep recurrent attentive writer (Gregor et al. 2015): T steps add to a canvas, which ends as the image.

    At each step the encoder, an LSTM, reads the image and its difference from the canvas, and returns q(z_t|x,
    z_1 ... z_t-1). The decoder, another LSTM, gets z_t and writes to the canvas:

        x_err = x - mean of likelihood(c_t-1);  r_t = read(x, x_err, h_dec_t-1)
        h_enc_t = LSTM_enc(h_enc_t-1, [r_t, h_dec_t-1]);  z_t ~ q(z_t|h_enc_t)
        h_dec_t = LSTM_dec(h_dec_t-1, z_t);  c_t = c_t-1 + write(h_dec_t)

    p(z) = N(0, I) over the latents of all steps, and p(x|z) = likelihood(c_T). Codes hold z_1 ... z_T. States start at
    0, the canvas at learned values.

    Args:
        image_shape: Channels, height and width; from the data.
        z_dim: Dimensions of the latents of each step.
        steps: T, the number of steps.
        rnn_size: Units of the encoder's LSTM, and of the decoder's.
        attention: Read and write through grids of Gaussian filters that move over the image, in place of linear layers
            of all pixels.
        read_size: Filters per side of the grid that reads, 5 by default. With attention only.
        write_size: Filters per side of the grid that writes, 5 by default. With attention only.
    """

    latent_part = "step"
    objectives = tuple(BOUNDS)  # surrogate gradients would need q(z|x) with detached parameters
    default_limit = 1000  # the encoder and the decoder run T times per sample
    has_kl_of_dimensions = True  # given the latents of earlier steps

    def __init__(
        self,
        image_shape: ImageShape,
        z_dim: int = 10,
        steps: int = 10,
        rnn_size: int = 256,
        attention: bool = False,
        read_size: int | None = None,
        write_size: int | None = None,
        **kwargs,
    ):
        if min(z_dim, steps, rnn_size) < 1:
            raise ValueError(f"z_dim, steps and rnn_size must be at least 1; got {z_dim}, {steps} and {rnn_size}.")
        if not attention and (read_size, write_size) != (None, None):
            raise ValueError("read_size and write_size have no effect without attention: add it, or leave them out.")
        reads = READ_SIZE if read_size is None else read_size
        writes = WRITE_SIZE if write_size is None else write_size
        if min(reads, writes) < 2:
            raise ValueError(f"read_size and write_size must be at least 2; got {reads} and {writes}.")
        super().__init__(**kwargs)
        self.likelihood = self.new_likelihood()
        channels = self.likelihood.output_channels
        self.first_canvas = nn.Parameter(torch.zeros(channels, *image_shape[1:]))
        self.canvas: WholeCanvas | AttentionCanvas
        if attention:
            self.canvas = AttentionCanvas(image_shape, channels, rnn_size, reads, writes)
        else:
            self.canvas = WholeCanvas(image_shape, channels, rnn_size)
            self.encoder_of_image = nn.Linear(self.canvas.read_dim, 4 * rnn_size, bias=False)
            nn.init.xavier_uniform_(self.encoder_of_image.weight)
        self.encoder = lstm_layer(self.canvas.read_dim + 2 * rnn_size, rnn_size)
        self.decoder = lstm_layer(z_dim + rnn_size, rnn_size)
        self.posterior_layer = nn.Linear(rnn_size, 2 * z_dim)
        glorot(self.posterior_layer)

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        """Start the canvas at the mean training image `(C, H, W)`."""
        self.first_canvas.copy_(self.likelihood.link(mean.clamp(0.001, 0.999)))

    @property
    def decoder_cost(self) -> int:
        return self.hparams.steps

    # The latents

    @property
    def code_shape(self) -> tuple[int, int]:
        """Shape of the latents of all steps, `(T, z_dim)`."""
        return self.hparams.steps, self.hparams.z_dim

    @property
    def latent_sizes(self) -> tuple[int, ...]:
        return (self.hparams.z_dim,) * self.hparams.steps

    @property
    def latent_dim(self) -> int:
        """Dimensions of the codes, which hold the latents of all steps."""
        return self.hparams.steps * self.hparams.z_dim

    def has_standard_normal_prior(self) -> bool:
        """Return True: the latents of all steps are independent under the prior N(0, I)."""
        return True

    def prior(self) -> Distribution:
        """Return N(0, I) over the latents of all steps, event shape `(T * z_dim,)`."""
        return standard_normal(self.latent_dim, like=self.first_canvas)

    # The recurrence

    def first_state(self, images: int) -> State:
        """Return the state before the first step, for a number of images."""
        zero = self.first_canvas.new_zeros(images, self.hparams.rnn_size)
        canvas = at_least_float32(self.first_canvas).expand(images, *self.first_canvas.shape)
        return State(zero, zero, zero, zero, self.canvas.layer(zero), canvas)

    def gates_of_image(self, x: Tensor) -> Tensor | float:
        """Return what images `(B, C, H, W)` add to the gates of the encoder at each step, `(B, 4 R)`; 0 if nothing."""
        if self.hparams.attention:
            return 0.0
        return self.encoder_of_image(x.flatten(1).to(self.encoder_of_image.weight.dtype))

    def encode_step(self, x: Tensor, gates_x: Tensor | float, state: State) -> tuple[State, Tensor, Tensor]:
        """Return the state after the encoder's part of a step, and the mean and scale of q(z_t|h_enc_t)."""
        x_err = x - self.likelihood(state.canvas).mean
        r = self.canvas.read(x, x_err, state.outputs).to(state.h_dec.dtype)
        h_enc = state.h_enc.expand_as(state.h_dec)
        gates = gates_x + self.encoder(torch.cat([r, h_enc, state.h_dec], -1))
        h_enc, cell_enc = lstm(gates, state.cell_enc)
        mu, raw = at_least_float32(self.posterior_layer(h_enc)).chunk(2, -1)
        return state._replace(h_enc=h_enc, cell_enc=cell_enc), mu, soft_clip(raw, LATENT_LIMIT).exp()

    def decode_hidden(self, z: Tensor, h_dec: Tensor, cell_dec: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and cell of the decoder after a step with latents `z (..., z_dim)`."""
        h_dec = h_dec.expand(*z.shape[:-1], h_dec.shape[-1])
        return lstm(self.decoder(torch.cat([z.to(h_dec.dtype), h_dec], -1)), cell_dec)

    def decode_step(self, z: Tensor, state: State) -> State:
        """Return the state after the decoder's part of a step with latents `z (..., z_dim)`."""
        h_dec, cell_dec = self.decode_hidden(z, state.h_dec, state.cell_dec)
        outputs = self.canvas.layer(h_dec)
        canvas = state.canvas + self.canvas.write(outputs)
        return state._replace(h_dec=h_dec, cell_dec=cell_dec, outputs=outputs, canvas=canvas)

    def inference_steps(
        self, x: Tensor, gates_x: Tensor | float, choose: Callable[[int, Tensor, Tensor], Tensor]
    ) -> Iterator[Step]:
        """Yield the T steps with z_t = choose(t, mu_t, sigma_t), t = 0 ... T - 1.

        The first step of the encoder runs once per image: its result depends on no latents.

        Args:
            x: Images `(B, C, H, W)`.
            gates_x: `gates_of_image(x)`.
            choose: Returns latents `(..., B, z_dim)`.
        """
        state = self.first_state(len(x))
        for t in range(self.hparams.steps):
            state, mu, sigma = self.encode_step(x, gates_x, state)
            z = choose(t, mu, sigma)
            state = self.decode_step(z, state)
            yield Step(state, z, mu.expand_as(z), sigma.expand_as(z))

    # The distributions

    def posterior(self, x: Tensor, y: Tensor | None = None) -> DRAWPosterior:
        """Return q(z|x), batch shape `(B,)`."""
        self.check_form(x)
        return DRAWPosterior(self, x)

    def px(self, z: Tensor, y: Tensor | None = None) -> Independent:
        """Return p(x|z) for codes `(..., d)`, batch shape `(...)`.

        The canvas is a sum, so that what all steps write is computed at once.
        """
        h = cell = self.first_canvas.new_zeros(self.hparams.rnn_size)
        all_h = []
        for z_t in z.unflatten(-1, self.code_shape).unbind(-2):
            h, cell = self.decode_hidden(z_t, h, cell)
            all_h.append(h)
        return self.likelihood(at_least_float32(self.first_canvas) + self.canvas.write_all(torch.stack(all_h, -2)))

    # The bounds

    def log_terms(self, x: Tensor, K: int, qz_x: Any, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log p(x|z_k) and log p(z_k) - log q(z_k|x), each `(K, B)`, in one pass.

        Both are sums over all steps. Encoder and decoder run K times per image, since the encoder depends on z.
        """
        path = qz_x.rsample_path((K,))
        return self.likelihood(path.canvas).log_prob(x), path.log_ratio()

    def log_weights(self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None) -> Tensor:
        """Return log p(x|z_k) + log p(z_k) - log q(z_k|x), `(K, B)`: each weight is an unbiased estimate of p(x).

        The encoder depends on the latents of earlier steps, so that it runs K times per image: K samples cost K passes
        of the whole model, and memory grows with K.
        """
        return super().log_weights(x, K, y, posterior)

    def kl_and_distortion(self, x: Tensor, K: int, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return KL(q(z_t|x, z_1 ... z_t-1) || p(z_t)) of each dimension, `(B, T, z_dim)`, and the distortion, `(B,)`.

        The KL is in closed form given the samples of earlier steps. Both are means over K samples.
        """
        path = qz_x.rsample_path((K,))
        return path.kl().mean(0), -self.likelihood(path.canvas).log_prob(x).mean(0)

    def rate_distortion(
        self, x: Tensor, K: int, y: Tensor | None = None, posterior: Distribution | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the rate, the sum over steps of their KL, and the distortion, each `(B,)`; ELBO = -(their sum)."""
        x, K, y, qz_x = self.with_posterior(x, K, y, posterior)
        kl, distortion = self.kl_and_distortion(x, K, qz_x)
        return kl.sum((-1, -2)), distortion

    def rate_of_parts(self, x: Tensor, K: int, y: Tensor, qz_x: Any) -> tuple[Tensor, Tensor]:
        """Return the KL of each step, `(B, T)`, or of each dimension, `(B, T * z_dim)`, and the distortion, `(B,)`."""
        kl, distortion = self.kl_and_distortion(x, K, qz_x)
        return (kl.sum(-1) if self.free_bits_per == "layer" else kl.flatten(1)), distortion

    # Uses of a trained model

    def latent_statistics(self, x: Tensor, y: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return for each step the posterior mean and the KL of each dimension, both `(B, z_dim)`.

        The mean is that with the steps before at their means. A mean over samples would vary between images because of
        sampling noise, and unused units would count as active. The KL is the mean over 16 samples.
        """
        x = self.as_images(x)
        qz_x = self.posterior(x)
        means = qz_x.mean.unflatten(-1, self.code_shape)
        kl = qz_x.rsample_path((STATISTICS_SAMPLES,)).kl().mean(0)
        return list(zip(means.unbind(-2), kl.unbind(-2), strict=True))

    def mean_images(self, states: list[State]) -> Tensor:
        """Return the mean images of the canvas after each step, `(T, n, C, H, W)`."""
        return torch.stack([self.likelihood(state.canvas).mean for state in states])

    @torch.no_grad()
    def generate_steps(self, n: int) -> Steps:
        """Return the steps that draw n samples from the prior."""
        z = self.prior().sample((as_count(n, "n"),)).unflatten(-1, self.code_shape)
        state, states = self.first_state(n), []
        for z_t in z.unbind(-2):
            state = self.decode_step(z_t, state)
            states.append(state)
        return Steps(self.mean_images(states), None, self.write_windows(states))

    @torch.no_grad()
    def reconstruct_steps(self, x: Tensor) -> Steps:
        """Return the steps that draw images `(n, C, H, W)` again, with the latents at their means."""
        x = self.as_images(x)
        states = [step.state for step in self.posterior(x).steps(lambda t, mu, sigma: mu)]
        read = self.read_windows([self.first_state(len(x)), *states[:-1]])
        return Steps(self.mean_images(states), read, self.write_windows(states))

    def read_windows(self, states: list[State]) -> Tensor | None:
        """Return the windows that are read after these states, `(T, n, 4)`; None without attention."""
        canvas = self.canvas
        if isinstance(canvas, WholeCanvas):
            return None
        return torch.stack([window(canvas.read_grid(state.outputs), canvas.read_size) for state in states])

    def write_windows(self, states: list[State]) -> Tensor | None:
        """Return the windows that were written before these states, `(T, n, 4)`; None without attention."""
        canvas = self.canvas
        if isinstance(canvas, WholeCanvas):
            return None
        return torch.stack([window(canvas.write_grid(state.outputs), canvas.write_size) for state in states])
