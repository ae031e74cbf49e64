"""Scores, pictures and the average say what is so, by inputs whose answer is known."""

import math
import runpy
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
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
    return mnist(True)[0][:10_000].unsqueeze(1) / 127.5 - 1


# %% The judge
def test_the_judge_and_fd(images, mnist):
    test_images, labels = mnist(False)
    fd, digits = judge.assess(test_images.unsqueeze(1) / 127.5 - 1)
    assert fd < 0.1
    assert (digits == labels).double().mean() >= 0.985
    text = (common.DATA / "README.md").read_text(encoding="utf-8")
    stated = float(text.partition(" have fd ")[2][:4])
    assert judge.assess(images)[0] == pytest.approx(stated, abs=0.02)
    few = images[:1000]
    assert judge.assess(few)[0] < 12
    for bad in (torch.rand_like(few), few[:3].repeat(99, 1, 1, 1), few / 2):
        assert judge.assess(bad)[0] > 120
    assert judge.assess(few / 2, few / 2)[0] == pytest.approx(0, abs=1e-3)


def test_output_that_is_not_finite_is_refused(refuse):
    infinite = torch.full((9, 2), math.inf)
    for line in (
        refuse(judge.frechet_distance, infinite, torch.zeros(2), torch.eye(2)),
        refuse(linear_gan.score, nn.Threshold(9, math.inf), torch.zeros(9, 2)),
    ):
        assert "not finite: try a lower learning rate" in line


def test_the_judge_is_made_by_its_program(monkeypatch, tmp_path, capsys):
    """Of 300 images here. To ask for help trains nothing."""
    program = judge.__file__
    monkeypatch.setattr(common, "DATA", tmp_path)
    monkeypatch.setattr(sys, "argv", [program, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(program, run_name="__main__")
    monkeypatch.setattr(sys, "argv", [program])
    names = runpy.run_path(program, run_name="__main__")
    _, _, last = capsys.readouterr().out.partition("\nreads ")
    assert float(last.partition("%")[0]) > 50
    fd, _ = names["assess"](names["load_images"](train=False)[0])
    assert fd < 0.1


# %% Digits
def test_range_that_mnist_gan_scores(images):
    """[-1, 1], or [0, 1] if it is told so."""

    def G(noise):
        return images[:1000].flatten(1)

    def G_of_document(noise):
        return G(noise) / 2 + 0.5

    score = mnist_gan.score(G, 100, False, "cpu")
    assert 0.8 < score["rarest"] < 0.95
    again = mnist_gan.score(G_of_document, 100, True, "cpu")
    assert again == pytest.approx(score, abs=1e-3)


def test_scores_of_a_generator_that_draws_one_image(images):
    """Noise is normal, and always the same; it is not drawn from the training's."""
    noises = []

    def G(noise, *labels):
        noises.append(noise)
        return images[1:2].expand(len(noise), 1, 28, 28)  # a zero

    state = torch.get_rng_state()
    mnist_cgan.score(G, 100, "cpu")
    assert mnist_bn_gan.score(G, 100, "cpu")["rarest"] == 0
    assert mnist_gan.score(G, 100, False, "cpu")["rarest"] == 0
    assert torch.get_rng_state().equal(state)
    first, second, third = torch.cat(noises).split(10_000)
    assert first.std().item() == pytest.approx(1, abs=0.01)
    assert first.equal(second) and first.equal(third)


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
    """It compares with the images that it is given, here black on white."""
    images = -nn.functional.pad(images[:1000], [2, 2, 2, 2], value=-1)
    torch.manual_seed(0)
    codes = torch.randn(1000, 10)

    def encoder(imgs):
        torch.randn(5)
        return codes

    def decoder(z):  # of other codes than the images', all is moved
        return images.roll(1 - z.equal(codes), 3)

    state = torch.get_rng_state()
    score = aae_mnist.score(encoder, decoder, images)
    assert torch.get_rng_state().equal(state)
    assert score["error"] == 0
    assert score["fd_reconstructed"] < 0.01
    assert 0.1 < score["fd"] < 200
    assert score["code_distance"] < 0.3
    codes += 2  # in each of ten directions
    score = aae_mnist.score(encoder, decoder, images)
    assert score["code_distance"] == pytest.approx(2 * 10**0.5, rel=0.1)


# %% Points
def test_data_and_score_of_linear_gan(train_once):
    torch.manual_seed(3)
    data = linear_gan.create_data()
    torch.manual_seed(3)
    X = torch.normal(0.0, 1.0, (1000, 2))
    G = nn.Linear(2, 2)
    G.weight.data = torch.tensor([[1.0, -0.1], [2.0, 0.5]])  # A, transposed
    G.bias.data = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(data, G(X).detach())
    assert linear_gan.score(G, data)["wasserstein_2"] < 0.2
    whole = train_once(linear_gan)
    assert linear_gan.score(whole.parts["G"], data) == whole.score
    data = data.double()
    assert linear_gan.distance(data + torch.tensor([3, 4]), data) == pytest.approx(5)
    assert linear_gan.distance(-data, data) == pytest.approx(
        2 * data.mean(0).norm().item()
    )


# A curve, its y where x is 2.
CURVES = {"exponential": 1.08**2, "sine": math.sin(2), "cosine": math.cos(2)}
CURVES |= {"quadratic": 4, "inverted-u": 8 - 4 / 12.5}


@pytest.mark.parametrize("curve", CURVES)
def test_data_and_score_of_curve_gan(curve):
    torch.manual_seed(0)
    f, _, (low, high), _ = curve_gan.CURVES[curve]
    assert f(torch.tensor(2.0)).item() == pytest.approx(CURVES[curve])
    data = curve_gan.create_data(curve)
    good = {"error": 0, "least": 1, "most": 1, "outside": 0}
    assert curve_gan.score(data, curve, data) == pytest.approx(good, abs=0.2)
    left = data[data[:, 0] < (low + high) / 2]
    bad = good | {"least": 0, "most": 2}
    assert curve_gan.score(left, curve, data) == pytest.approx(bad, abs=0.4)
    moved = data + torch.tensor([0, 2])
    score = curve_gan.score(moved, curve, data)
    assert score["error"] == pytest.approx(4 / data[:, 1].var().item(), rel=1e-3)
    moved[:1024, 0] += 2 * (high - low)
    assert curve_gan.score(moved, curve, data)["outside"] == 0.5


# %% Numbers
@pytest.mark.parametrize(("multiple", "remainder"), [(5, 0), (3, 0), (1, 0), (60, 50)])
def test_data_of_numbers_gan(multiple, remainder):
    torch.manual_seed(0)
    numbers = numbers_gan.gen_sequence(multiple, remainder, 2000)
    assert numbers.unique().tolist() == list(range(remainder, 100, multiple))


GOOD = numbers_gan.int_to_onehot(torch.arange(1, 100, 5).repeat(50))
NOTHING = torch.zeros_like(GOOD)

# What G says of 1, 6, ...; distance, variation; silent, fit, appear, rarest, commonest.
SAID = [
    (GOOD, [0, 0], [0, 1, 1, 1, 1]),
    (GOOD[:1].repeat(1000, 1), [0, 0.95], [0, 1, 0.05, 0, 20]),
    (GOOD.roll(1, dims=1), [1, 1], [0, 0, 0, 0, 0]),  # 2, 7, ...
    (torch.cat([GOOD, NOTHING]), [12.5, 0.5], [0.5, 1, 1, 1, 1]),
    (NOTHING, [25, 1], [1, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("data", "looks", "score"), SAID)
def test_score_of_numbers_gan(data, looks, score):
    assert numbers_gan.distance(data, 5, 1) == pytest.approx(looks[0])
    assert numbers_gan.variation(data, 5, 1) == pytest.approx(looks[1], abs=1e-6)
    result = list(numbers_gan.score(data, 5, 1).values())
    assert result == pytest.approx(score, abs=1e-6)


def test_scores_are_of_what_is_generated(train_once):
    """The data would get the best scores."""
    assert train_once(curve_gan).score["error"] > 0.001
    assert train_once(numbers_gan).score["fit"] < 0.9


# %% The average
def test_the_average_by_known_numbers():
    """Its weights are 14 / (14 + t), t = step / 10. Batch norm's means count, too."""
    net = nn.BatchNorm1d(1)
    average = nn.BatchNorm1d(1)
    wanted = 1.0
    for step in range(10, 100, 10):
        nn.init.constant_(net.weight, step)
        net.running_mean.fill_(step - 1)
        common.update_average(average, net, step)
        wanted += 14 / (14 + step / 10) * (step - wanted)
        values = [average.weight.item(), average.running_mean.item()]
        assert values == pytest.approx([wanted, wanted - 1])


# %% Pictures
GREYS = torch.linspace(-1, 1, 64).view(64, 1, 1, 1).expand(64, 1, 28, 28)


@pytest.fixture
def figures(monkeypatch):
    """A list of the figures that would be saved."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: kept.append(figure))
    return kept


def test_ground_and_points_of_linear_gan():
    """Blue is where D says real: here above and right of (3, -4)."""

    def D(places):
        return 99 * torch.minimum(places[..., :1] - 3, places[..., 1:] + 4)

    figure = Figure()
    data = linear_gan.create_data()
    axes = figure.subplots(2)
    _, drawn, ground = linear_gan.prepare_axes(figure, axes, data, 30)
    linear_gan.display_gen_dist(nn.Identity(), D, drawn, ground, 2, "cpu")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = numpy.asarray(canvas.buffer_rgba())[::-1].astype(int)  # from below
    for x, y in ((4.5, 9), (4.5, -1), (4.5, -5.5), (0, 9)):
        column, row = axes[1].transData.transform((x, y)).astype(int)
        red, _, blue, _ = pixels[row, column]
        assert abs(blue - red) > 15
        assert (blue > red) == (x > 3 and y > -4)
    real, fake = axes[1].collections[:2]
    assert real.get_offsets().tolist() == data[:100].tolist()
    assert fake.get_offsets().std() == pytest.approx(1, abs=0.2)  # the noise


def test_points_of_curve_gan(figures):
    data = curve_gan.create_data("quadratic")
    curve_gan.plot_data(data, "quadratic", "x.png", "", data[:9] + 1)
    real, _, fake = figures[0].axes[0].lines
    assert real.get_xydata().tolist() == data.tolist()
    assert fake.get_xydata().tolist() == (data[:9] + 1).tolist()


def test_bars_of_numbers_gan(figures):
    """Of ten vectors six name 1, two 6, one 7, and one nothing."""
    data = numbers_gan.int_to_onehot(torch.tensor([1, 1, 1, 1, 1, 1, 6, 6, 7, 0]))
    data[-1] = 0
    numbers_gan.draw("", data, "x.png", 5, 1)
    wrong, right = figures[0].axes[0].containers
    assert wrong[7].get_height() == pytest.approx(0.1)
    heights = {}
    for bar in right:
        heights[round(bar.get_x() + 0.5)] = bar.get_height()
    assert list(heights) == list(range(1, 100, 5))
    assert [heights[1], heights[6], heights[11]] == pytest.approx([0.6, 0.2, 0])


def test_columns_of_mnist_cgan(figures):
    """Each under its digit, in a figure of at most 45 inches."""
    images = GREYS[[20, 0, 20, 60]].repeat(2, 1, 1, 1)
    mnist_cgan.save_columns(images, [2, 0, 2, 6], "x.png", "")
    mnist_cgan.save_columns(GREYS[:1].repeat(131, 1, 1, 1), [7], "x.png", "")
    axes = figures[0].axes[0]
    shades = {}
    for tick, label in zip(axes.get_xticks(), axes.get_xticklabels()):
        shades[label.get_text()] = axes.images[0].get_array()[40, int(tick), 0]
    assert shades["0"] < shades["2"] < shades["6"]
    assert max(figures[1].get_size_inches()) < 45


def test_rows_of_aae_mnist(monkeypatch):
    """Digit d is an image of d / 10, its code, which is drawn as 1 + d / 10."""
    rows = []
    labels = torch.arange(10).repeat_interleave(3)
    images = labels.view(30, 1, 1, 1) / 10 + torch.zeros(2, 2)
    images[::3] += 0.01  # not typical, nor are those below
    images[1::3] -= 0.01

    def encoder(imgs):
        return imgs[:, 0, 0, :1]

    def decoder(codes):
        return 1 + codes.view(-1, 1, 1, 1) + torch.zeros(2, 2)

    save_rows = Mock()
    monkeypatch.setattr(aae_mnist, "save_rows", save_rows)
    aae_mnist.save_walk(encoder, decoder, images, labels, "x.png")
    aae_mnist.save_reconstructions(encoder, decoder, images, "x.png")
    for call in save_rows.call_args_list:
        rows.append(call.args[0][:, 0, 0, 0].view(-1, 10))
    walk, pairs = rows
    wanted = [0.8, *(1.8 + torch.linspace(0, 0.1, 8)).tolist(), 0.9]
    assert walk[8].tolist() == pytest.approx(wanted)
    torch.testing.assert_close(pairs[1], pairs[0] + 1)
    torch.testing.assert_close(pairs[4], images[20:, 0, 0, 0])


def test_grids_of_images():
    """In the order of the noise, from black to white, under a title."""

    def G(noise):
        return GREYS

    mnist_gan.draw(G, torch.zeros(64, 9), 1, SimpleNamespace(frame="1.png", step=1))
    mnist_bn_gan.draw(G, torch.zeros(64, 9), 1, SimpleNamespace(frame="2.png", step=1))
    aae_mnist.sample_image(G, None, "3.png", "", n_row=8)
    for n in (1, 2, 3):
        picture = Image.open(f"{n}.png")
        factor = picture.width // 242
        for i in (0, 1, 8, 62, 63):
            x = factor * (16 + 30 * (i % 8))
            y = factor * (16 + 30 * (i // 8)) + 26
            assert picture.getpixel((x, y))[0] == pytest.approx(i / 63 * 255, abs=1)
