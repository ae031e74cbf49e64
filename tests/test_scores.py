"""Scores tell good from bad, and the average of a net is what it says."""

import math
import re

import pytest
import torch
from torch import nn

import aae_mnist
import common
import curve_gan
import judge
import linear_gan
import mnist_bn_gan
import mnist_cgan
import mnist_gan
import numbers_gan


@pytest.fixture(scope="module")
def images(mnist):
    """10,000 training images for the judge."""
    images, _ = mnist[True]
    return images[:10_000].unsqueeze(1) / 127.5 - 1


@pytest.fixture(scope="module")
def unseen_images(mnist):
    images, _ = mnist[False]
    return images.unsqueeze(1) / 127.5 - 1


# %% The judge
def test_the_judge_reads_the_test_images(unseen_images, mnist):
    fd, digits = judge.assess(unseen_images)
    _, labels = mnist[False]
    right = (digits == labels).double().mean().item()
    assert right >= 0.985
    assert fd < 0.1


def test_fd_of_training_images_is_as_stated(images):
    text = (common.DATA / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"fd (\d+\.\d+)", text)[1])
    fd, _ = judge.assess(images)
    assert fd == pytest.approx(stated, abs=0.02)


def test_fd_tells_good_from_bad(images, mnist):
    few = images[:1000]
    good, _ = judge.assess(few)
    assert good < 12
    same, _ = judge.assess(few, few)
    assert same < 1e-3
    _, labels = mnist[True]
    ones = images[labels[:10_000] == 1]
    bad = {
        "noise": torch.rand_like(few) * 2 - 1,
        "one image": few[:1].expand(999, 1, 28, 28),
        "grey": few / 2 + 0.5,
        "only 1s": ones,
    }
    for name, others in bad.items():
        fd, _ = judge.assess(others)
        assert fd > 10 * good, name


def test_the_judge_draws_no_random_numbers(images):
    """Else, training would depend on how often it is judged."""
    state = torch.get_rng_state()
    judge.assess(images[:100])
    assert torch.get_rng_state().equal(state)


def test_frechet_distance():
    """Of a Gaussian that is twice as wide, and shifted."""
    torch.manual_seed(0)
    points = torch.randn(2000, 3)
    mean, covariance = judge.moments(points)
    assert judge.frechet_distance(points, mean, covariance) < 1e-6
    shift = torch.tensor([3.0, 0.0, 4.0])
    distance = judge.frechet_distance(points, mean + shift, 4 * covariance)
    trace = covariance.trace().item()
    wanted = trace + 4 * trace - 2 * 2 * trace + 3**2 + 4**2
    assert distance == pytest.approx(wanted, rel=1e-4)


def test_frechet_distance_of_turned_gaussians():
    """Two that are long in different directions: (3 - 1)^2 twice."""
    torch.manual_seed(0)
    points = torch.randn(50_000, 2) * torch.tensor([3.0, 1.0])
    covariance = torch.diag(torch.tensor([1.0, 9.0]))
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    turned = turn.T @ covariance @ turn
    mean = torch.zeros(2)
    distance = judge.frechet_distance(points @ turn, mean, turned)
    assert distance == pytest.approx(8, rel=0.05)


# %% Digits
def test_score_of_mnist_gan(images):
    """It wants images in [-1, 1], or in [0, 1] if it is told so."""

    def G(noise):
        return images.flatten(1)

    def G_of_document(noise):
        return images.flatten(1) / 2 + 0.5

    score = mnist_gan.score(G, 100, False, "cpu")
    again = mnist_gan.score(G_of_document, 100, True, "cpu")
    assert score["fd"] == pytest.approx(again["fd"], abs=1e-3)
    assert score["fd"] < 3
    assert sum(score["shares"]) == pytest.approx(1)
    for share in score["shares"]:
        assert 0.08 < share < 0.12


def test_score_of_mnist_bn_gan(images):
    def only_ones(noise):
        return one.expand(10_000, 1, 28, 28)

    _, digits = judge.assess(images[:100])
    first = (digits == 1).nonzero()[0].item()
    one = images[first : first + 1]
    score = mnist_bn_gan.score(only_ones, 100, "cpu")
    assert score["fd"] > 100
    assert score["shares"] == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_score_of_mnist_cgan(unseen_images):
    """Of a generator that draws a 7 where a 1 is wanted."""
    _, digits = judge.assess(unseen_images[:1000])
    examples = []
    for digit in range(10):
        first = (digits == digit).nonzero()[0].item()
        examples.append(unseen_images[first])
    examples[1] = examples[7]
    examples = torch.stack(examples)

    def G(noise, labels):
        return examples[labels]

    score = mnist_cgan.score(G, 100, "cpu")
    assert score["right"] == pytest.approx(0.9)
    assert score["worst"] == 0


def test_scores_are_of_the_same_noise(small_mnist):
    """Whatever the seed. Nothing is drawn from the random numbers of training."""
    noises = []

    def G(noise, *labels):
        noises.append(noise)
        return torch.zeros(len(noise), 1, 28, 28)

    state = torch.get_rng_state()
    mnist_gan.score(G, 100, False, "cpu")
    mnist_bn_gan.score(G, 100, "cpu")
    mnist_cgan.score(G, 100, "cpu")
    assert torch.get_rng_state().equal(state)
    assert noises[0].shape == (10_000, 100)
    assert noises[0].equal(noises[1])
    assert noises[0].equal(noises[2])


def test_score_of_aae_mnist(images):
    images = nn.functional.pad(images[:1000], [2, 2, 2, 2], value=-1)
    torch.manual_seed(0)
    codes = torch.randn(1000, 10)

    def encoder(imgs):
        return codes

    def decoder(z):
        return images

    score = aae_mnist.score(encoder, decoder, images)
    assert score["error"] == 0
    assert score["fd"] == pytest.approx(0, abs=1e-3)
    assert score["fd_reconstructed"] == pytest.approx(0, abs=1e-3)
    assert score["code_distance"] < 0.3

    codes = codes + 2  # in each of ten directions
    score = aae_mnist.score(encoder, decoder, images)
    assert score["code_distance"] == pytest.approx(2 * 10**0.5, rel=0.1)

    def grey(z):
        return torch.zeros_like(images)

    score = aae_mnist.score(encoder, grey, images)
    assert score["error"] == pytest.approx(images.abs().mean().item())
    assert score["fd"] > 100


def test_reparameterization():
    torch.manual_seed(0)
    mu = torch.full((50_000, 1), 3.0, requires_grad=True)
    logvar = torch.full_like(mu, math.log(0.25))
    codes = aae_mnist.reparameterization(mu, logvar)
    assert codes.mean().item() == pytest.approx(3, rel=0.02)
    assert codes.std().item() == pytest.approx(0.5, rel=0.02)
    codes.sum().backward()
    assert mu.grad.eq(1).all()


# %% Points
def test_data_of_linear_gan():
    torch.manual_seed(0)
    data = linear_gan.create_data()
    assert data.shape == (1000, 2)
    assert data.mean(0).tolist() == pytest.approx([1, 2], abs=0.3)
    covariance = data.T.cov().flatten().tolist()
    assert covariance == pytest.approx([1.01, 1.95, 1.95, 4.25], rel=0.1)


def test_score_of_linear_gan():
    """Of a G of two layers, too: it scores points, not weights."""
    torch.manual_seed(0)
    data = linear_gan.create_data()
    perfect = nn.Linear(2, 2)
    perfect.weight.data = torch.tensor([[1.0, -0.1], [2.0, 0.5]])  # A, transposed
    perfect.bias.data = torch.tensor([1.0, 2.0])
    assert linear_gan.score(perfect, data)["wasserstein_2"] < 0.2

    two_layers = nn.Sequential(nn.Linear(2, 2), perfect)
    two_layers[0].weight.data = torch.eye(2)
    two_layers[0].bias.data = torch.zeros(2)
    same = linear_gan.score(perfect, data)
    assert linear_gan.score(two_layers, data) == pytest.approx(same)

    two_layers[0].weight.data = torch.zeros(2, 2)  # all points at (1, 2)
    score = linear_gan.score(two_layers, data)
    spread = data.var(0).sum().item() ** 0.5
    assert score["wasserstein_2"] == pytest.approx(spread, rel=0.02)


@pytest.mark.parametrize("curve", list(curve_gan.CURVES))
def test_data_of_curve_gan(curve):
    torch.manual_seed(0)
    data = curve_gan.create_data(curve)
    assert data.shape == (2048, 2)
    assert curve_gan.performance(data, curve).item() == 0
    low, high = curve_gan.CURVES[curve][2]
    assert low <= data[:, 0].min() < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < data[:, 0].max() <= high
    y_low, y_high = curve_gan.CURVES[curve][3]
    assert y_low < data[:, 1].min()
    assert data[:, 1].max() < y_high


def test_curves():
    x = torch.tensor([0.0, 2.0])
    wanted = {
        "exponential": [1, 1.08**2],
        "sine": [0, math.sin(2)],
        "cosine": [1, math.cos(2)],
        "quadratic": [0, 4],
        "inverted-u": [0, 8 - 4 / 12.5],
    }
    for curve, y in wanted.items():
        f = curve_gan.CURVES[curve][0]
        assert f(x).tolist() == pytest.approx(y)


def test_quality_of_curve_gan():
    torch.manual_seed(0)
    data = curve_gan.create_data("sine")
    good = curve_gan.create_data("sine", 4096)

    def worst(points):
        return curve_gan.worst(**curve_gan.quality(points, "sine", data))

    assert worst(good) < 0.6
    shift = 0.1 * data[:, 1].std().item()
    above = good + torch.tensor([0, shift])
    quality = curve_gan.quality(above, "sine", data)
    assert quality["error"] == pytest.approx(0.01, rel=1e-3)
    assert worst(above) == pytest.approx(0.01 / 0.002, rel=1e-3)

    left = good[good[:, 0] < 0]
    quality = curve_gan.quality(left, "sine", data)
    assert quality["least"] == 0
    assert quality["most"] == pytest.approx(2, abs=0.3)
    assert worst(left) == pytest.approx(2)

    outside = good.clone()
    outside[:1024, 0] += 20 * math.pi
    quality = curve_gan.quality(outside, "sine", data)
    assert quality["outside"] == 0.25
    assert worst(outside) == pytest.approx(0.25 / 0.02)


def test_worst_is_1_at_the_limits():
    good = {"error": 0, "least": 1, "most": 1, "outside": 0}
    assert curve_gan.worst(**good) == 0
    limits = {"error": 0.002, "least": 0.5, "most": 2, "outside": 0.02}
    for name, limit in limits.items():
        assert curve_gan.worst(**good | {name: limit}) == pytest.approx(1)


def test_units_of_curve_gan():
    """The nets see the figure's axes from -3 to 3."""
    for curve in curve_gan.CURVES:
        middle, unit = curve_gan.middle_and_unit(curve, scaled=True)
        x_range = curve_gan.CURVES[curve][2]
        y_limits = curve_gan.CURVES[curve][3]
        corners = torch.tensor([x_range, y_limits]).T.float()
        scaled = curve_gan.scale(corners, middle, unit)
        assert scaled.flatten().tolist() == pytest.approx([-3, -3, 3, 3])
        back = curve_gan.unscale(scaled, middle, unit)
        torch.testing.assert_close(back, corners)


# %% Numbers
def test_one_hot_vectors():
    assert numbers_gan.onehot_encoder(1, 5).tolist() == [0, 1, 0, 0, 0]
    assert numbers_gan.onehot_to_int(numbers_gan.int_to_onehot(75)) == 75
    vectors = numbers_gan.int_to_onehot(torch.tensor([3, 99, 0]))
    silent = torch.zeros(1, 100)
    data = torch.cat([vectors, silent])
    assert numbers_gan.data_to_num(data).tolist() == [3, 99, 0, -1]


@pytest.mark.parametrize(("multiple", "remainder"), [(5, 0), (3, 2), (1, 0), (60, 50)])
def test_data_of_numbers_gan(multiple, remainder):
    torch.manual_seed(0)
    numbers = numbers_gan.gen_sequence(multiple, remainder, 2000)
    wanted = list(range(remainder, 100, multiple))
    assert numbers.unique().tolist() == wanted
    batch = numbers_gan.gen_batch(multiple, remainder)
    assert batch.shape == (10, 100)
    assert batch.sum(1).eq(1).all()


def perfect_numbers():
    multiples_of_5 = torch.arange(0, 100, 5).repeat(50)
    return numbers_gan.int_to_onehot(multiples_of_5)


# What G says; distance, variation; silent, fit, appear, rarest, commonest.
SAID = [
    ("each equally often", [0, 0], [0, 1, 1, 1, 1]),
    ("only 0", [0, 0.95], [0, 1, 0.05, 0, 20]),  # distance takes it for perfect
    ("6, 11, ...", [1, 1], [0, 0, 0, 0, 0]),
    ("half of them silent", [12.5, 0.5], [0.5, 1, 1, 1, 1]),
    ("nothing", [25, 1], [1, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("what", "looks", "score"), SAID)
def test_score_of_numbers_gan(what, looks, score):
    data = perfect_numbers()
    if what == "only 0":
        data = data[:1].repeat(1000, 1)
    if what == "6, 11, ...":
        data = data.roll(1, dims=1)
    if what == "half of them silent":
        data = torch.cat([data, torch.zeros_like(data)])
    if what == "nothing":
        data = torch.zeros_like(data)
    assert numbers_gan.distance(data, 5, 0) == pytest.approx(looks[0])
    assert numbers_gan.variation(data, 5, 0) == pytest.approx(looks[1], abs=1e-6)
    result = list(numbers_gan.score(data, 5, 0).values())
    assert result == pytest.approx(score, abs=1e-6)


# %% The average
def test_the_average_begins_as_a_copy():
    """After steps 1 to 9. So the first pictures show G as it is."""
    net = nn.Linear(1, 1)
    average = nn.Linear(1, 1)
    for step in range(1, 10):
        nn.init.constant_(net.weight, step)
        common.update_average(average, net, step)
        assert average.weight.item() == step


def test_the_average_moves_each_tenth_step():
    net = nn.Linear(1, 1)
    average = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 1)
    nn.init.constant_(average.weight, 0)
    for step in range(10, 31):
        common.update_average(average, net, step)
    rest = (1 - 14 / 15) * (1 - 14 / 16)  # of steps 11 and 21
    assert average.weight.item() == pytest.approx(1 - rest)


def test_the_average_forgets():
    """The weights of its last steps are 14 / (14 + t)."""
    net = nn.Linear(1, 1)
    average = nn.Linear(1, 1)
    for step in range(1, 201):
        nn.init.constant_(net.weight, step <= 180)
        common.update_average(average, net, step)
    rest = (1 - 14 / 32) * (1 - 14 / 33)  # of steps 181 and 191
    assert average.weight.item() == pytest.approx(rest)


def test_the_average_of_batch_norm():
    """Its running means are averaged, and its count is copied."""
    net = nn.BatchNorm1d(1)
    average = nn.BatchNorm1d(1)
    net.running_mean.fill_(1.0)
    net.num_batches_tracked.fill_(7)
    common.update_average(average, net, 141)
    assert average.running_mean.item() == pytest.approx(0.5)
    assert average.num_batches_tracked.item() == 7


def test_each_script_averages(script, whole_run):
    """After three or six steps, it is a copy of the net."""
    parts = whole_run.checkpoint["parts"]
    for name, average in parts.items():
        if name.startswith("average_"):
            net = parts[name.removeprefix("average_")]
            torch.testing.assert_close(average, net, rtol=0, atol=0)


@pytest.mark.parametrize("script", ["numbers_gan"], indirect=True)
def test_later_the_average_is_another_net(script, train):
    run = train(script, "--epochs 25")
    average = run.parts["average_G"].state_dict()
    net = run.parts["G"].state_dict()
    for name, value in average.items():
        assert not value.equal(net[name])
        torch.testing.assert_close(value, net[name], rtol=0.2, atol=0.02)
