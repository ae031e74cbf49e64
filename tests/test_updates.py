"""Nets, data and updates are the documents': by whole runs, watched."""

import math
from unittest.mock import Mock

import pytest
import torch
from torch.nn import BatchNorm1d, LeakyReLU, Linear, ReLU, Sigmoid, Tanh

import aae_mnist
import common
import curve_gan
import mnist_cgan
import numbers_gan

# The updates of a step.
ORDER = {"curve_gan": ["D", "D", "G"], "numbers_gan": ["D", "D", "G"]}
ORDER |= {"aae_mnist": ["encoder decoder", "discriminator"]}
HALVE_LOSS_D = ["linear_gan", "mnist_bn_gan", "aae_mnist"]
SAME_NOISE = ["linear_gan", "mnist_bn_gan", "aae_mnist"]  # for both updates


# Of what a run has noted of D: in a step, of real samples, of fakes, and for G.
def three_of_D(notes, step):
    if "discriminator" in notes:  # aae_mnist.py: G comes first
        first, *others = notes["discriminator"][3 * step : 3 * step + 3]
        return [*others, first]
    return notes["D"][3 * step : 3 * step + 3]


def join_real(whole, steps):
    """What D has taken for real in these steps, as one tensor."""
    return torch.cat([three_of_D(whole.inputs, step)[0] for step in range(steps)])


# %% Options: the values are those of conftest.py
def test_options_of_the_optimizers(whole):
    options = vars(whole.args)
    for name, part in whole.parts.items():
        if isinstance(part, torch.optim.Optimizer):
            (group,) = part.param_groups
            which = name[-1]  # D or G
            assert group["betas"] == (0.3, options.get("b2", 0.999))
            assert group["lr"] == options.get("lr", options.get(f"lr_{which}"))
            has_decay = which == "D" and "weight_decay" in options
            assert isinstance(part, torch.optim.AdamW) == has_decay
            assert group["weight_decay"] == has_decay * 0.2


SIZES = {"linear_gan": [250], "curve_gan": [500, 500, 500, 500, 48]}
SIZES |= {"numbers_gan": [12]}


def test_batch_size(script, whole):
    """Of real samples, of fakes, and for G. The last minibatch is what is left."""
    for step, size in enumerate(SIZES.get(script.__name__, [70, 70, 70, 70, 20])):
        for samples in three_of_D(whole.inputs, step):
            assert len(samples) == size


# %% Updates
def test_each_update_moves_one_net(script, whole):
    assert whole.step >= 20
    assert whole.moved == ORDER.get(script.__name__, ["D", "G"]) * whole.step


def test_all_weights_are_trained(whole):
    """Those of embeddings, of the average, of the best net, too."""
    for name, net in whole.nets.items():
        for key, weight in net.named_parameters():
            assert not weight.equal(whole.first[name][key]), f"{name}.{key}"


def test_losses(script, whole):
    """Those that are printed, of the first epoch."""
    name = script.__name__
    steps = whole.step // whole.epoch
    sums = torch.zeros(2)  # of D's losses, of G's
    for step in range(steps):
        verdicts = torch.stack(three_of_D(whole.outputs, step)).detach()
        if name == "linear_gan":  # its D gives logits
            verdicts = verdicts.sigmoid()
        real, fake, fake_for_G = verdicts
        loss_D = -real.log().mean() - (1 - fake).log().mean()
        loss_G = -fake_for_G.log().mean()
        if name in HALVE_LOSS_D:
            loss_D /= 2
        if name == "aae_mnist":
            pixels = whole.outputs["decoder"][step] - whole.inputs["encoder"][step]
            loss_G = 0.2 * loss_G + 0.8 * pixels.detach().abs().mean()
        sums += torch.tensor([loss_D, loss_G]) / steps
    means = [whole.history["loss_D"][1], whole.history["loss_G"][1]]
    assert means == pytest.approx(sums.tolist(), rel=1e-4)


def test_samples(script, whole):
    """D sees real samples, fakes without a graph, and, for G, fakes with one."""
    three = three_of_D(whole.inputs, 0)
    assert [samples.requires_grad for samples in three] == [False, False, True]
    real, fake, fake_for_G = three
    assert not real.equal(fake)
    G = "encoder" if script.__name__ == "aae_mnist" else "G"  # it makes the codes
    assert fake.equal(whole.outputs[G][0])
    assert fake.equal(fake_for_G) == (script.__name__ in SAME_NOISE)
    assert not whole.inputs[G][0].equal(whole.inputs[G][2])  # in a later step


# %% Nets, layer by layer, by the options of conftest.py
DROP = [LeakyReLU(0.3), torch.nn.Dropout(0.25)]
CURVE_D = [curve_gan.Scale(None, None), Linear(2, 256), *DROP, Linear(256, 128), *DROP]
CURVE_D += [Linear(128, 64), *DROP, Linear(64, 1), Sigmoid()]
CURVE_G = [Linear(3, 16), LeakyReLU(0.3), Linear(16, 32), LeakyReLU(0.3)]
CURVE_G += [Linear(32, 2), curve_gan.Unscale(None, None)]
MNIST_G = [Linear(30, 40), ReLU(), Linear(40, 40), ReLU(), Linear(40, 784), Tanh()]
MNIST_D = [Linear(784, 40), LeakyReLU(0.1), Linear(40, 40), LeakyReLU(0.1)]
MNIST_D += [Linear(40, 1), Sigmoid()]
EMBEDDING = torch.nn.Embedding(10, 10)
LEAKY = LeakyReLU(0.2, inplace=True)
TO_IMAGE = [LEAKY, BatchNorm1d(256), Linear(256, 512), LEAKY, BatchNorm1d(512)]
TO_IMAGE += [Linear(512, 1024), LEAKY, BatchNorm1d(1024), Linear(1024, 784), Tanh()]
TO_VERDICT = [LEAKY, Linear(512, 256), LEAKY, Linear(256, 1), Sigmoid()]
MIDDLE = [LEAKY, Linear(512, 512), BatchNorm1d(512), LEAKY]
NETS = [
    ("linear_gan", "G", [Linear(2, 2)]),
    ("linear_gan", "D", [Linear(2, 5), Tanh(), Linear(5, 3), Tanh(), Linear(3, 1)]),
    ("curve_gan", "D", CURVE_D),
    ("curve_gan", "G", CURVE_G),
    ("numbers_gan", "D", [Linear(100, 1), Sigmoid()]),
    ("numbers_gan", "G", [Linear(100, 100), ReLU()]),
    ("mnist_gan", "G", MNIST_G),
    ("mnist_gan", "D", MNIST_D),
    ("mnist_bn_gan", "G", [Linear(30, 256), *TO_IMAGE]),
    ("mnist_bn_gan", "D", [Linear(784, 512), *TO_VERDICT]),
    ("mnist_cgan", "G", [EMBEDDING, Linear(40, 256), *TO_IMAGE]),
    ("mnist_cgan", "D", [EMBEDDING, Linear(794, 512), *TO_VERDICT]),
    ("aae_mnist", "encoder", [Linear(400, 512), *MIDDLE, *[Linear(512, 6)] * 2]),
    ("aae_mnist", "decoder", [Linear(6, 512), *MIDDLE, Linear(512, 400), Tanh()]),
    ("aae_mnist", "discriminator", [Linear(6, 512), *TO_VERDICT]),
]


@pytest.mark.parametrize(("script", "name", "layers"), NETS, indirect=["script"])
def test_layers(whole, name, layers):
    found = []
    for layer in whole.nets[name].modules():
        if not list(layer.children()):
            found.append(str(layer))
    assert found == [str(layer) for layer in layers]


def test_aae_mnist_draws_codes():
    """Of N(3, 0.5^2), as its layers mu and logvar say."""
    torch.manual_seed(0)
    encoder = aae_mnist.Encoder(latent_dim=1, img_size=2).eval()
    for layer, value in ((encoder.mu, 3), (encoder.logvar, math.log(0.25))):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, value)
    codes = encoder(torch.randn(5000, 1, 2, 2))
    assert [codes.mean().item(), codes.std().item()] == pytest.approx(
        [3, 0.5], abs=0.02
    )
    codes.sum().backward()
    assert encoder.mu.bias.grad.item() == 5000


def test_units_of_curve_gan(train_once):
    """The nets see the figure's axes from -3 to 3, but with --no-scale."""
    for curve, (_, _, x_range, y_limits) in curve_gan.CURVES.items():
        units = curve_gan.get_units(curve)
        corners = torch.tensor([x_range, y_limits]).T.float()
        scaled = curve_gan.Scale(*units)(corners)
        assert scaled.flatten().tolist() == pytest.approx([-3, -3, 3, 3])
        torch.testing.assert_close(curve_gan.Unscale(*units)(scaled), corners)
    assert train_once(curve_gan).parts["D"][0](corners).equal(corners)


# %% Noise and data
def check_normal(noise, tolerance=0.05):
    assert [noise.mean(), noise.std()] == pytest.approx([0, 1], abs=tolerance)


def test_noise_is_normal(script, whole):
    if script.__name__ == "aae_mnist":  # codes that D takes for real
        noise = join_real(whole, whole.step)
    else:
        noise = torch.cat(whole.inputs["G"])
    check_normal(noise)
    assert noise.max() > 3  # no uniform noise has that
    for name in ("average_G", "average_decoder"):
        if name in whole.drawn:
            check_normal(whole.drawn[name][0], 0.15)


def test_data_of_curve_gan_and_numbers_gan(train_once):
    """D sees what the options ask for, all of it."""
    points = join_real(train_once(curve_gan), 5)
    assert len(points.unique(dim=0)) == 2048
    assert points[:, 1].equal(points[:, 0].sin())
    vectors = join_real(train_once(numbers_gan), 100)
    assert vectors.argmax(1).unique().tolist() == list(range(1, 100, 7))


IMAGES = [("mnist_gan", ""), ("mnist_gan", "--unit-range"), ("mnist_bn_gan", "")]
IMAGES += [("mnist_cgan", ""), ("aae_mnist", "")]


@pytest.mark.parametrize(("script", "option"), IMAGES, indirect=["script"])
def test_range_of_images(script, option, train, monkeypatch):
    """x / 255 in [0, 1], if it is asked for; else the same in [-1, 1]."""
    minibatches = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr(common, "minibatches", minibatches)
    with pytest.raises(SystemExit):
        train(script, option)
    _, images, _ = minibatches.call_args.args
    pixels = (images + 1) * 127.5
    if option:
        pixels = images * 255
    assert [pixels.min(), pixels.max()] == [0, 255]
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)


def test_labels_of_mnist_cgan(train_once, mnist):
    """D gets an image's own label; of a fake, the one that G was asked for."""
    whole = train_once(mnist_cgan)
    images, labels = mnist(True)
    seen = three_of_D(whole.inputs, 0)[0].flatten(1)
    distances = torch.cdist(seen, images[:300].flatten(1) / 127.5 - 1)
    assert labels[distances.argmin(1)].equal(three_of_D(whole.labels, 0)[0])
    asked = whole.labels["G"]
    for step in range(whole.step):
        _, first, second = three_of_D(whole.labels, step)
        assert first.equal(asked[2 * step])
        assert second.equal(asked[2 * step + 1])
    counts = torch.cat(asked).bincount(minlength=10)  # of 3,000
    assert counts.tolist() == pytest.approx([300] * 10, rel=0.2)


# %% The average
def test_the_average_moves_after_each_tenth_step(whole):
    wanted = []
    for step in range(10, whole.step + 1, 10):
        for name, average in whole.nets.items():
            if name.startswith("average_"):
                net = whole.nets[name.removeprefix("average_")]
                wanted.append((average, net, step))
    assert whole.averages == wanted


# How often a step calls G, or encoder and decoder.
CALLS = {"mnist_gan": 2, "mnist_bn_gan": 1, "mnist_cgan": 2, "aae_mnist": 1}
CALLS |= {"numbers_gan": 2}


@pytest.mark.parametrize("script", CALLS, indirect=True)
def test_only_the_average_is_drawn_and_judged(script, whole):
    """Of the net itself no call is left when those of training are counted."""
    for name in ("G", "encoder", "decoder"):
        if name in whole.nets:
            assert whole.drawn[name] == []
            assert len(whole.inputs[name]) == CALLS[script.__name__] * whole.step
            assert not whole.nets[f"average_{name}"].training


def test_scores_of_aae_mnist_are_of_test_images(train_once):
    """Of aae_mnist.py; and those of epoch 5, the last, are those of the end."""
    images, _ = aae_mnist.load_images(20, "cpu", train=False)
    whole = train_once(aae_mnist)
    for seen in whole.drawn["average_encoder"]:
        assert (images.unsqueeze(0) == seen[:1].unsqueeze(1)).flatten(2).all(2).any()
    assert whole.history["fd"][5] == pytest.approx(whole.score["fd"])
    assert whole.history["error"][5] == pytest.approx(whole.score["error"])
