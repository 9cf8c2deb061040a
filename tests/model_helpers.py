"""Helpers of the tests of several models: fixed noise, Gaussians from network outputs, models far from uniform."""

import inspect

import torch
from torch import nn
from torch.distributions import Normal


def options_of(kind):
    """Return the names of the options of a class of models."""
    constructors = [base.__init__ for base in kind.__mro__ if "__init__" in vars(base) and base is not object]
    options = {name for init in constructors for name in inspect.signature(init).parameters}
    return options - {"self", "args", "kwargs"}


def under(seed, f, *args):
    """Return f(*args) with the random state of `seed`."""
    torch.manual_seed(seed)
    return f(*args)


def gaussian(outputs):
    """Return the Gaussian that models make of network outputs: means, and log scales before clipping."""
    mu, raw = outputs.chunk(2, -1)
    return Normal(mu, (7 * (raw / 7).tanh()).exp())


def is_of_images(key):
    """Return whether a parameter belongs to p(x|z): of the decoder, but not of p(z_l|z_l+1) in a ladder."""
    between = key.startswith("decoder.heads") or (key.startswith("decoder.blocks") and "blocks.0" not in key)
    return key.startswith("decoder") and not between


def shaken(model, x):
    """Return the model with random weights and distributions far from uniform, in which q(a|x) and p(a|x,y,z) are near.

    Args:
        model: A model with a classifier and a decoder.
        x: Images, which set the running statistics of batch norm.
    """
    for key, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=0.5 if key.startswith(("decoder", "classifier")) else 0.1)
    with torch.no_grad():
        model.train().log_weights(x, 4)
    return model.eval()
