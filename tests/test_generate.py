"""What is saved is used again: generator.pt2, and --generate."""

from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import curve_gan
import linear_gan
import mnist_bn_gan
import mnist_cgan
import numbers_gan

SAVED = {  # the part that --generate uses
    "linear_gan": "G",
    "curve_gan": "best_G",
    "numbers_gan": "average_G",
    "mnist_gan": "average_G",
    "mnist_bn_gan": "average_G",
    "mnist_cgan": "average_G",
    "aae_mnist": "average_decoder",
}


@pytest.mark.parametrize("n", [1, 2, 9])
def test_generator_of_curve_gan(n, train_once):
    """It gives points in the curve's units."""
    whole = train_once(curve_gan)
    program = torch.export.load(whole.folder / "generator.pt2").module()
    G = curve_gan.Generator(2, 0.2)
    G.load_state_dict(whole.checkpoint["parts"]["best_G"])
    noise = torch.randn(n, 2)
    middle = torch.tensor([25.0, 25.0])
    unit = torch.tensor([50 / 6, 50 / 6])
    torch.testing.assert_close(program(noise), G(noise) * unit + middle)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_generator_of_numbers_gan(n, train_once):
    whole = train_once(numbers_gan)
    program = torch.export.load(whole.folder / "generator.pt2").module()
    G = numbers_gan.Generator()
    G.load_state_dict(whole.checkpoint["parts"]["average_G"])
    noise = torch.randn(n, 100)
    torch.testing.assert_close(program(noise), G(noise))


def test_generator_of_mnist_bn_gan(train_once):
    """generator.pth and discriminator.pth, as in the document."""
    whole = train_once(mnist_bn_gan)
    parts = whole.checkpoint["parts"]
    files = {"generator.pth": "average_G", "discriminator.pth": "D"}
    for name, part in files.items():
        state = torch.load(whole.folder / name, weights_only=True)
        torch.testing.assert_close(state, parts[part], rtol=0, atol=0)


def generate(script, checkpoint, *options):
    """Draw, and return the picture's bytes."""
    n = len(list(Path().glob("more*")))
    out = Path(f"more{n}")
    script.main(["--generate", checkpoint, "--out", out, *options])
    return (out / "samples" / "generated.png").read_bytes()


def test_generate_uses_the_saved_net_and_the_seed(script, whole_run):
    path = whole_run.folder / "checkpoint.pt"
    one = generate(script, path, "--seed", 3)
    assert one != generate(script, path, "--seed", 4)

    checkpoint = torch.load(path, weights_only=True)
    for name, part in checkpoint["parts"].items():
        if name != SAVED[script.__name__]:
            part.clear()  # no other part is needed
    torch.save(checkpoint, "less.pt")
    assert one == generate(script, "less.pt", "--seed", 3)


def test_generate_draws_in_eval_mode(script, whole_run, monkeypatch):
    """Else, batch norm and dropout would mix the samples of a batch."""
    modes = []
    call = nn.Module.__call__

    def note(net, *inputs):
        modes.append(net.training)
        return call(net, *inputs)

    monkeypatch.setattr(nn.Module, "__call__", note)
    generate(script, whole_run.folder / "checkpoint.pt")
    assert modes
    assert not any(modes)


@pytest.mark.parametrize("n", [1, 7])
def test_points_as_csv(n, train_once):
    for script in (linear_gan, curve_gan):
        path = train_once(script).folder / "checkpoint.pt"
        folder = Path(script.__name__)
        script.main(["--generate", path, "--out", folder, "--n", n])
        file = folder / "samples" / "generated.csv"
        assert file.read_text().startswith("x,y\n")
        points = numpy.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
        assert points.shape == (n, 2)


def test_csv_of_curve_gan_is_in_the_curves_units(train_once):
    path = train_once(curve_gan).folder / "checkpoint.pt"
    curve_gan.main(["--generate", path, "--out", "more", "--seed", 3, "--n", 50])
    points = numpy.loadtxt("more/samples/generated.csv", delimiter=",", skiprows=1)
    torch.manual_seed(3)
    G = curve_gan.Generator(2, 0.2)  # it draws weights, as in generate
    G.load_state_dict(train_once(curve_gan).checkpoint["parts"]["best_G"])
    with torch.no_grad():
        wanted = G(torch.randn(50, 2)) * (50 / 6) + 25
    assert points == pytest.approx(wanted.numpy(), rel=1e-4)


def test_numbers_are_printed(train_once, capsys):
    path = train_once(numbers_gan).folder / "checkpoint.pt"
    capsys.readouterr()
    numbers_gan.main(["--generate", path, "--out", "more", "--n", 3])
    said = capsys.readouterr().out
    assert "(-1: no number)" in said
    assert said.count(",") == 2


def test_one_image_and_many(train_once):
    """--n 1 works with batch norm, too."""
    path = train_once(mnist_bn_gan).folder / "checkpoint.pt"
    assert generate(mnist_bn_gan, path, "--n", 1)
    assert generate(mnist_bn_gan, path, "--n", 10)


def test_columns_of_digits(train_once, monkeypatch):
    asked = []
    save_columns = mnist_cgan.save_columns

    def keep(images, digits, path, title):
        asked.append((len(images), digits))
        save_columns(images, digits, path, title)

    monkeypatch.setattr(mnist_cgan, "save_columns", keep)
    path = train_once(mnist_cgan).folder / "checkpoint.pt"
    generate(mnist_cgan, path, "--digits", "2026", "--n", 2)
    assert asked == [(8, [2, 0, 2, 6])]


def test_generate_writes_a_folder_of_its_own(train_once, capsys):
    """Nothing in the run's."""
    whole = train_once(linear_gan)
    before = sorted(whole.folder.rglob("*"))
    linear_gan.main(["--generate", whole.folder / "checkpoint.pt"])
    assert sorted(whole.folder.rglob("*")) == before
    path = Path("runs/linear_gan/1/samples/generated.png")
    assert path.exists()
    assert str(path) in capsys.readouterr().out
