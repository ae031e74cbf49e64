"""Each net is the document's, layer by layer."""

import math
import re

import pytest
import torch
from torch import nn

import aae_mnist
import curve_gan
import linear_gan
import mnist_bn_gan
import mnist_cgan
import mnist_gan
import numbers_gan

AXES = curve_gan.axes_of("exponential")
DROP = "LeakyReLU(0.0) Dropout(0.3, False)"
CURVE_D = f"Scale 2-256 {DROP} 256-128 {DROP} 128-64 {DROP} 64-1 Sigmoid"
CURVE_G = "2-16 LeakyReLU(0.0) 16-32 LeakyReLU(0.0) 32-2 Unscale"
MNIST_D = "784-256 LeakyReLU(0.1) 256-256 LeakyReLU(0.1) 256-1 Sigmoid"
LABEL = "Embedding(10, 10)"
LEAKY = "LeakyReLU(0.2)"
BN_256 = f"256 {LEAKY} BatchNorm1d(256) 256-512 {LEAKY} BatchNorm1d(512)"
BN_512 = f"512 {LEAKY} 512-512 BatchNorm1d(512) {LEAKY}"
BN_1024 = f"512-1024 {LEAKY} BatchNorm1d(1024) 1024-784 Tanh"
TO_VERDICT = f"512 {LEAKY} 512-256 {LEAKY} 256-1 Sigmoid"

# A net, its layers. (2-5 is Linear(2, 5).)
NETS = [
    (linear_gan.make_Gen(), "2-2"),
    (linear_gan.make_Disc(), "2-5 Tanh 5-3 Tanh 3-1"),
    (curve_gan.Discriminator(AXES, 0.3, 0.0), CURVE_D),
    (curve_gan.Generator(AXES, 2, 0.0), CURVE_G),
    (numbers_gan.Discriminator(), "100-1 Sigmoid"),
    (numbers_gan.Generator(), "100-100 ReLU"),
    (mnist_gan.Generator(100, 256, 784), "100-256 ReLU 256-256 ReLU 256-784 Tanh"),
    (mnist_gan.Discriminator(784, 256), MNIST_D),
    (mnist_bn_gan.Generator(100, 784), f"100-{BN_256} {BN_1024}"),
    (mnist_bn_gan.Discriminator(784), f"784-{TO_VERDICT}"),
    (mnist_cgan.Generator(100, 10, 1, 28, 28), f"{LABEL} 110-{BN_256} {BN_1024}"),
    (mnist_cgan.Discriminator(1, 28, 28, 10), f"{LABEL} 794-{TO_VERDICT}"),
    (aae_mnist.Encoder(10, img_size=32), f"1024-{BN_512} 512-10 512-10"),
    (aae_mnist.Decoder(10, img_size=32), f"10-{BN_512} 512-1024 Tanh"),
    (aae_mnist.Discriminator(10), f"10-{TO_VERDICT}"),
]


@pytest.mark.parametrize(("net", "layers"), NETS)
def test_layers(net, layers):
    words = []
    for layer in net.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            words.append(f"{layer.in_features}-{layer.out_features}")
        elif not list(layer.children()):
            word = re.sub(r"\w+=", "", str(layer))  # without names of arguments
            words.append(re.sub(r", (True|1e-05|0\.1)\b|\(\)", "", word))
    assert " ".join(words) == layers


def test_all_layers_are_used_in_this_order():
    nets = [
        (mnist_gan.Generator(9, 8, 7), (5, 7)),
        (mnist_gan.Discriminator(9, 8), (5, 1)),
        (mnist_bn_gan.Generator(9, 784).eval(), (5, 1, 28, 28)),
        (mnist_bn_gan.Discriminator(9), (5, 1)),
        (aae_mnist.Decoder(9, img_size=6).eval(), (5, 1, 6, 6)),
        (aae_mnist.Discriminator(9), (5, 1)),
    ]
    x = torch.randn(5, 9)
    for net, shape in nets:
        assert net(x).shape == shape
        assert net(x).flatten(1).equal(net.model(x))


def test_mnist_cgan_looks_at_labels():
    G = mnist_cgan.Generator(100, 10, img_channels=3, img_width=6, img_height=4).eval()
    D = mnist_cgan.Discriminator(3, 6, 4, 10)
    labels = torch.arange(10)
    images = G(torch.randn(1, 100).expand(10, 100), labels)
    assert images.shape == (10, 3, 4, 6)
    assert len(images.unique(dim=0)) == 10
    same_image = images[:1].expand(10, 3, 4, 6)
    assert len(D(same_image, labels).unique()) == 10


def test_linear_gan_draws_its_parameters():
    torch.manual_seed(0)
    nets = nn.ModuleList([nn.Linear(100, 100), nn.Linear(100, 100)])
    linear_gan.init_params(*nets, 0.05, 0.005, 0.5)
    for weight in nets.parameters():
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_aae_mnist_draws_codes():
    """Of N(3, 0.5^2), as its layers mu and logvar say."""
    torch.manual_seed(0)
    encoder = aae_mnist.Encoder(latent_dim=1, img_size=2).eval()
    for layer, value in ((encoder.mu, 3), (encoder.logvar, math.log(0.25))):
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)
    codes = encoder(torch.randn(5000, 1, 2, 2))
    assert codes.mean().item() == pytest.approx(3, rel=0.02)
    assert codes.std().item() == pytest.approx(0.5, rel=0.04)
    codes.sum().backward()
    assert encoder.mu.bias.grad.item() == 5000


def test_units_of_curve_gan():
    """The nets see the figure's axes from -3 to 3."""
    for curve, (_, _, x_range, y_limits) in curve_gan.CURVES.items():
        axes = curve_gan.axes_of(curve)
        corners = torch.tensor([x_range, y_limits]).T.float()
        scaled = curve_gan.Scale(*axes)(corners)
        assert scaled.flatten().tolist() == pytest.approx([-3, -3, 3, 3])
        torch.testing.assert_close(curve_gan.Unscale(*axes)(scaled), corners)
