"""Each net is the document's, layer by layer."""

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


def same(net, *layers):
    return str(net) == str(nn.Sequential(*layers))


def test_linear_gan():
    assert same(linear_gan.make_Gen(), nn.Linear(2, 2))
    assert same(
        linear_gan.make_Disc(),
        nn.Linear(2, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
        nn.Tanh(),
        nn.Linear(3, 1),
    )


def test_linear_gan_draws_its_parameters():
    torch.manual_seed(0)
    D = nn.Linear(100, 100)
    G = nn.Linear(100, 100)
    linear_gan.init_params(D, G, 0.05, 0.005, 0.5, 0)
    for weight in [*D.parameters(), *G.parameters()]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert weight.mean().item() == pytest.approx(0, abs=0.01)


def test_curve_gan():
    """ReLU is LeakyReLU with a slope of 0."""
    assert same(
        curve_gan.Discriminator(dropout=0.3, negative_slope=0.0),
        nn.Linear(2, 256),
        nn.LeakyReLU(0.0),
        nn.Dropout(0.3),
        nn.Linear(256, 128),
        nn.LeakyReLU(0.0),
        nn.Dropout(0.3),
        nn.Linear(128, 64),
        nn.LeakyReLU(0.0),
        nn.Dropout(0.3),
        nn.Linear(64, 1),
        nn.Sigmoid(),
    )
    assert same(
        curve_gan.Generator(latent_dim=2, negative_slope=0.0),
        nn.Linear(2, 16),
        nn.LeakyReLU(0.0),
        nn.Linear(16, 32),
        nn.LeakyReLU(0.0),
        nn.Linear(32, 2),
    )


def test_numbers_gan():
    assert same(numbers_gan.Discriminator(), nn.Linear(100, 1), nn.Sigmoid())
    assert same(numbers_gan.Generator(), nn.Linear(100, 100), nn.ReLU())


def test_mnist_gan():
    G = mnist_gan.Generator(100, 256, 784)
    assert same(
        G.model,
        nn.Linear(100, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 784),
        nn.Tanh(),
    )
    D = mnist_gan.Discriminator(784, 256)
    assert same(
        D.model,
        nn.Linear(784, 256),
        nn.LeakyReLU(0.1),
        nn.Linear(256, 256),
        nn.LeakyReLU(0.1),
        nn.Linear(256, 1),
        nn.Sigmoid(),
    )
    noise = torch.randn(5, 100)
    images = G(noise)
    assert images.equal(G.model(noise))
    assert D(images).equal(D.model(images))


def batch_norm_generator(inputs):
    return [
        nn.Linear(inputs, 256),
        nn.LeakyReLU(0.2, inplace=True),
        nn.BatchNorm1d(256),
        nn.Linear(256, 512),
        nn.LeakyReLU(0.2, inplace=True),
        nn.BatchNorm1d(512),
        nn.Linear(512, 1024),
        nn.LeakyReLU(0.2, inplace=True),
        nn.BatchNorm1d(1024),
        nn.Linear(1024, 784),
        nn.Tanh(),
    ]


def leaky_discriminator(inputs):
    return [
        nn.Linear(inputs, 512),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(512, 256),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(256, 1),
        nn.Sigmoid(),
    ]


def test_mnist_bn_gan():
    G = mnist_bn_gan.Generator(100, 784).eval()
    D = mnist_bn_gan.Discriminator(784)
    assert same(G.model, *batch_norm_generator(100))
    assert same(D.model, *leaky_discriminator(784))
    noise = torch.randn(5, 100)
    images = G(noise)
    assert images.shape == (5, 1, 28, 28)
    assert images.flatten(1).equal(G.model(noise))
    assert D(images).equal(D.model(images.flatten(1)))


def test_mnist_cgan():
    G = mnist_cgan.Generator(100, 10, 1, 28, 28).eval()
    D = mnist_cgan.Discriminator(1, 28, 28, 10)
    assert same(G.model, *batch_norm_generator(110))
    assert same(D.model, *leaky_discriminator(794))
    assert str(G.label_emb) == str(D.label_emb) == "Embedding(10, 10)"
    noise = torch.randn(1, 100).expand(10, 100)
    labels = torch.arange(10)
    images = G(noise, labels)
    assert images.shape == (10, 1, 28, 28)
    for image in images[1:]:  # by another label, another image
        assert not image.equal(images[0])
    same_image = images[:1].expand(10, 1, 28, 28)
    assert len(D(same_image, labels).unique()) == 10


def test_mnist_cgan_takes_images_that_are_not_square():
    G = mnist_cgan.Generator(100, 10, img_channels=3, img_width=6, img_height=4)
    images = G(torch.randn(5, 100), torch.arange(5))
    assert images.shape == (5, 3, 4, 6)


def test_aae_mnist():
    encoder = aae_mnist.Encoder(latent_dim=10, img_size=32).eval()
    decoder = aae_mnist.Decoder(latent_dim=10, img_size=32).eval()
    D = aae_mnist.Discriminator(latent_dim=10)
    assert same(
        encoder.model,
        nn.Linear(1024, 512),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.LeakyReLU(0.2, inplace=True),
    )
    assert str(encoder.mu) == str(encoder.logvar) == str(nn.Linear(512, 10))
    assert same(
        decoder.model,
        nn.Linear(10, 512),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(512, 512),
        nn.BatchNorm1d(512),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Linear(512, 1024),
        nn.Tanh(),
    )
    assert same(D.model, *leaky_discriminator(10))
    codes = torch.randn(5, 10)
    images = decoder(codes)
    assert images.shape == (5, 1, 32, 32)
    assert images.flatten(1).equal(decoder.model(codes))
    assert D(codes).equal(D.model(codes))


def test_aae_mnist_draws_codes():
    """By mu and logvar, in this order."""
    encoder = aae_mnist.Encoder(latent_dim=1, img_size=4).eval()
    nn.init.zeros_(encoder.mu.weight)
    nn.init.constant_(encoder.mu.bias, 3)
    nn.init.zeros_(encoder.logvar.weight)
    nn.init.constant_(encoder.logvar.bias, -100)
    codes = encoder(torch.randn(50, 1, 4, 4))
    assert codes.mean().item() == pytest.approx(3)
    assert codes.std().item() == pytest.approx(0, abs=1e-6)
