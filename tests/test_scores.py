"""Scores tell good from bad, by inputs whose answer is known. So does the average."""

import math

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
    return mnist[True][0][:10_000].unsqueeze(1) / 127.5 - 1


# %% The judge
def test_the_judge_reads_the_test_images(mnist):
    test_images, labels = mnist[False]
    fd, digits = judge.assess(test_images.unsqueeze(1) / 127.5 - 1)
    assert (digits == labels).double().mean() >= 0.985
    assert fd < 0.1


def test_fd_of_training_images_is_as_stated(images):
    text = (common.DATA / "README.md").read_text(encoding="utf-8")
    stated = float(text.partition(" have fd ")[2][:4])
    state = torch.get_rng_state()
    fd, _ = judge.assess(images)
    assert fd == pytest.approx(stated, abs=0.02)
    assert torch.get_rng_state().equal(state)  # training goes on with its own


def test_fd_tells_good_from_bad(images):
    few = images[:1000]
    good, _ = judge.assess(few)
    assert good < 12
    for bad in (torch.rand_like(few), few[:1].expand(999, 1, 28, 28), few / 2):
        assert judge.assess(bad)[0] > 10 * good


def test_frechet_distance():
    """Of Gaussians that are long in different directions, 5 from each other."""
    torch.manual_seed(0)
    turn = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    points = torch.randn(50_000, 2) * torch.tensor([3.0, 1.0]) @ turn
    mean, covariance = judge.moments(points)
    assert judge.frechet_distance(points, mean, covariance) < 1e-6
    other = turn.T @ torch.diag(torch.tensor([1.0, 9.0])) @ turn
    distance = judge.frechet_distance(points, mean + torch.tensor([3, 4]), other)
    assert distance == pytest.approx(5**2 + (3 - 1) ** 2 + (3 - 1) ** 2, rel=0.01)
    numbers = torch.tensor([[1.0], [2.0], [3.0]])  # --latent-dim 1 of aae_mnist.py
    distance = judge.frechet_distance(numbers, torch.zeros(1), torch.eye(1) * 9)
    assert distance == pytest.approx(2**2 + (3 - 1) ** 2)


def test_output_that_is_not_finite_is_refused(refuse):
    points = torch.tensor([[1.0, 2.0], [math.nan, 3.0], [2.0, 2.0]])
    _, line = refuse(judge.frechet_distance, points, torch.zeros(2), torch.eye(2))
    assert "not finite: try a lower learning rate" in line
    G = linear_gan.make_Gen()
    nn.init.constant_(G[0].weight, math.inf)
    _, line = refuse(linear_gan.score, G, linear_gan.create_data())
    assert "not finite: try a lower learning rate" in line


# %% Digits
def test_score_of_mnist_gan(images):
    """It wants images in [-1, 1], or in [0, 1] if it is told so."""

    def G(noise):
        return images.flatten(1)

    def G_of_document(noise):
        return images.flatten(1) / 2 + 0.5

    score = mnist_gan.score(G, 100, False, "cpu")
    again = mnist_gan.score(G_of_document, 100, True, "cpu")
    assert again["fd"] == pytest.approx(score["fd"], abs=1e-3)
    assert 0.85 < score["rarest"] < 0.95


def test_scores_of_a_generator_that_draws_one_image(images):
    """Noise is always the same; nothing is drawn from the training's."""
    noises = []

    def G(noise, *labels):
        noises.append(noise)
        return images[:1].expand(10_000, 1, 28, 28)

    state = torch.get_rng_state()
    score = mnist_bn_gan.score(G, 100, "cpu")
    assert score["fd"] > 100
    assert score["rarest"] == 0
    mnist_cgan.score(G, 100, "cpu")
    mnist_gan.score(G, 100, False, "cpu")
    assert torch.get_rng_state().equal(state)
    assert noises[0].equal(noises[1])
    assert noises[0].equal(noises[2])


def test_score_of_mnist_cgan(images):
    """Of a generator that draws a 7 where a 1 is wanted."""
    _, digits = judge.assess(images[:1000])
    examples = [images[:1000][digits == digit][0] for digit in range(10)]
    examples[1] = examples[7]

    def G(noise, labels):
        return torch.stack(examples)[labels]

    score = mnist_cgan.score(G, 100, "cpu")
    assert score["right"] == pytest.approx(0.9)
    assert score["worst"] == 0


def test_score_of_aae_mnist(images):
    images = nn.functional.pad(images[:1000], [2, 2, 2, 2], value=-1)
    torch.manual_seed(0)
    codes = torch.randn(1000, 10)

    def encoder(imgs):
        torch.randn(5)
        return codes

    def decoder(z):
        return images

    def grey(z):
        return torch.zeros_like(images)

    state = torch.get_rng_state()
    score = aae_mnist.score(encoder, decoder, images)
    assert torch.get_rng_state().equal(state)
    assert score["error"] == 0
    assert score["fd"] == score["fd_reconstructed"] == pytest.approx(0, abs=1e-3)
    assert score["code_distance"] < 0.3
    codes += 2  # in each of ten directions
    score = aae_mnist.score(encoder, grey, images)
    assert score["code_distance"] == pytest.approx(2 * 10**0.5, rel=0.1)
    assert score["error"] == pytest.approx(images.abs().mean().item())
    assert score["fd"] == score["fd_reconstructed"] > 100


# %% Points
def test_data_and_score_of_linear_gan():
    torch.manual_seed(0)
    data = linear_gan.create_data()
    torch.manual_seed(0)
    X = torch.normal(0.0, 1.0, (1000, 2))
    G = nn.Linear(2, 2)
    G.weight.data = torch.tensor([[1.0, -0.1], [2.0, 0.5]])  # A, transposed
    G.bias.data = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(data, G(X).detach())
    assert linear_gan.score(G, data)["wasserstein_2"] < 0.2
    data = data.double()
    assert linear_gan.distance(data + torch.tensor([3, 4]), data) == pytest.approx(5)
    point = data.mean(0).expand(9, 2)
    spread = data.var(0).sum().item() ** 0.5
    assert linear_gan.distance(point, data) == pytest.approx(spread)


# A curve, its y where x is 2.
CURVES = {"exponential": 1.08**2, "sine": math.sin(2), "cosine": math.cos(2)}
CURVES |= {"quadratic": 4, "inverted-u": 8 - 4 / 12.5}


@pytest.mark.parametrize("curve", CURVES)
def test_data_of_curve_gan(curve):
    torch.manual_seed(0)
    f, _, (low, high), _ = curve_gan.CURVES[curve]
    assert f(torch.tensor(2.0)).item() == pytest.approx(CURVES[curve])
    data = curve_gan.create_data(curve)
    good = {"error": 0, "least": 1, "most": 1, "outside": 0}
    assert curve_gan.quality(data, curve, data) == pytest.approx(good, abs=0.2)
    left = data[data[:, 0] < (low + high) / 2]
    bad = {"error": 0, "least": 0, "most": 2, "outside": 0}
    assert curve_gan.quality(left, curve, data) == pytest.approx(bad, abs=0.4)
    variance = data[:, 1].var().item()
    data[:, 1] += 2
    quality = curve_gan.quality(data, curve, data)
    assert quality["error"] == pytest.approx(4 / variance, rel=1e-3)
    data[:1024, 0] += 2 * (high - low)
    assert curve_gan.quality(data, curve, data)["outside"] == 0.5


def test_worst_is_1_at_the_limits():
    good = {"error": 0, "least": 1, "most": 1, "outside": 0}
    assert curve_gan.worst(**good) == 0
    limits = {"error": 0.002, "least": 0.5, "most": 2, "outside": 0.02}
    for name, limit in limits.items():
        assert curve_gan.worst(**good | {name: limit}) == pytest.approx(1)


# %% Numbers
def test_one_hot_vectors():
    assert numbers_gan.onehot_to_int(numbers_gan.int_to_onehot(75)) == 75
    data = numbers_gan.int_to_onehot(torch.tensor([3, 99, 0, 5]))
    data[3] = 0
    assert numbers_gan.data_to_num(data).tolist() == [3, 99, 0, -1]


@pytest.mark.parametrize(("multiple", "remainder"), [(5, 0), (3, 2), (1, 0), (60, 50)])
def test_data_of_numbers_gan(multiple, remainder):
    torch.manual_seed(0)
    numbers = numbers_gan.gen_sequence(multiple, remainder, 2000)
    assert numbers.unique().tolist() == list(range(remainder, 100, multiple))


GOOD = numbers_gan.int_to_onehot(torch.arange(1, 100, 5).repeat(50))
NOTHING = torch.zeros_like(GOOD)

# What G says of 1, 6, ...; distance, variation; silent, fit, appear, rarest, commonest.
SAID = {
    "each equally often": (GOOD, [0, 0], [0, 1, 1, 1, 1]),
    "only 1": (GOOD[:1].repeat(1000, 1), [0, 0.95], [0, 1, 0.05, 0, 20]),
    "2, 7, ...": (GOOD.roll(1, dims=1), [1, 1], [0, 0, 0, 0, 0]),
    "half is silent": (torch.cat([GOOD, NOTHING]), [12.5, 0.5], [0.5, 1, 1, 1, 1]),
    "nothing": (NOTHING, [25, 1], [1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("what", SAID)
def test_score_of_numbers_gan(what):
    data, looks, score = SAID[what]
    assert numbers_gan.distance(data, 5, 1) == pytest.approx(looks[0])
    assert numbers_gan.variation(data, 5, 1) == pytest.approx(looks[1], abs=1e-6)
    result = list(numbers_gan.score(data, 5, 1).values())
    assert result == pytest.approx(score, abs=1e-6)


# %% The average
def test_the_average_by_known_numbers():
    """Its weights are 14 / (14 + t), t = step / 10. Batch norm's means count, too."""
    net = nn.BatchNorm1d(1)
    average = nn.BatchNorm1d(1)
    wanted = 1.0
    for step in range(10, 100, 10):
        nn.init.constant_(net.weight, step)
        net.running_mean.fill_(step - 1)
        net.num_batches_tracked.fill_(step)
        common.update_average(average, net, step)
        wanted += 14 / (14 + step / 10) * (step - wanted)
        assert average.weight.item() == pytest.approx(wanted)
        assert average.running_mean.item() == pytest.approx(wanted - 1)
        assert average.num_batches_tracked.item() == step


def test_the_average_of_a_script(script, train, read_checkpoint, monkeypatch):
    """It moves after each tenth step; with --no-average it is the net itself."""
    if "average" not in script.parse(""):
        pytest.skip("it has no average")
    steps = set()

    def note(average, net, step):
        assert str(average) == str(net)
        steps.add(step)

    def no_score(*args):
        return {}

    monkeypatch.setattr(common, "update_average", note)
    monkeypatch.setattr(script, "score", no_score, raising=False)
    train(script, "--batch-size 12 --max-steps 25")
    assert steps == {10, 20}
    train(script, "--batch-size 25 --max-steps 10 --no-average --out run")
    assert steps == {10, 20}
    parts = read_checkpoint("run")["parts"]
    for name in parts:
        net = name.removeprefix("average_")
        torch.testing.assert_close(parts[name], parts[net], rtol=0, atol=0)
