"""Runs every script for a few steps and looks at what came out.

pytest test_smoke.py
"""

import argparse
import ast
import copy
import errno
import functools
import importlib
import json
import math
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision import datasets

import aae_mnist
import common
import curve_gan
import linear_gan
import mnist_cgan
import mnist_gan
import numbers_gan

HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, so that runs/ starts empty."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def mnist():
    """The real thing, read once: {train: (images, labels)}."""
    return {train: common.load_mnist(train) for train in (True, False)}


@pytest.fixture
def small_mnist(mnist, monkeypatch):
    """300 images, so that an epoch has 3 steps: 128, 128 and 44 images."""
    small = {train: (x[:300], y[:300]) for train, (x, y) in mnist.items()}
    monkeypatch.setattr(common, "load_mnist", lambda train=True: small[train])


def refused(capsys, words, call, *args, status=2, **options):
    """Call what has to end with this status and one line on stderr with these words."""
    with pytest.raises(SystemExit) as stop:
        call(*args, **options)
    assert stop.value.code == status
    lines = capsys.readouterr().err.strip().splitlines()
    (message,) = [line for line in lines if not line.startswith("usage: ")]
    assert "error: " in message
    for word in [words] if isinstance(words, str) else words:
        assert word in message


def same(a, b):
    """Whether two nested dicts and lists of tensors and values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def checkpoint_of(run):
    return torch.load(Path(run, "checkpoint.pt"), weights_only=True)


# --- common.py ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (common.natural, ["0", "7"], ["-1", "1.5", "x", "", str(2**63)]),
        (common.positive_int, ["1", "70000"], ["0", "-3", "2.0", "many"]),
        (common.positive_float, ["0.1", "1e-4"], ["0", "-1", "nan", "inf", "x"]),
        (common.fraction, ["0", "0.999"], ["1", "-0.1", "nan", "inf", "x"]),
    ],
)
def test_numbers_are_checked(kind, good, bad):
    assert [kind(text) for text in good] == [float(text) for text in good]
    for text in bad:
        with pytest.raises(argparse.ArgumentTypeError):
            kind(text)


def test_minibatches_are_a_shuffled_partition():
    torch.manual_seed(0)
    data = torch.arange(300)
    first = list(common.minibatches(data, 128))
    second = list(common.minibatches(data, 128))
    assert [len(batch) for batch in first] == [128, 128, 44]
    assert torch.equal(torch.cat(first).sort().values, data)
    assert not torch.equal(torch.cat(first), data)
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_a_batch_larger_than_the_data_is_refused(capsys):
    assert common.count_steps(torch.zeros(300), 128) == 3
    assert common.count_steps(torch.zeros(300), 300) == 1
    refused(capsys, ("301", "300"), common.count_steps, torch.zeros(300), 301)
    assert common.count_steps(torch.zeros(300), 298, least=2) == 2
    for size in (1, 13, 299):  # the last minibatch would be of 1
        call = (common.count_steps, torch.zeros(300), size, 2)
        refused(capsys, "batch norm", *call)


def test_mnist_is_what_it_should_be(mnist):
    images, labels = mnist[True]
    assert images.shape == (60_000, 28, 28) and images.dtype == torch.uint8
    assert labels.shape == (60_000,) and labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist[False][0].shape == (10_000, 28, 28)
    assert not list(Path(common.DATA).rglob("*-ubyte"))  # nothing unpacked there


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    """A copy of the archives that a test may damage, and no network."""
    shutil.copytree(common.DATA, tmp_path / "data")
    monkeypatch.setattr(common, "DATA", tmp_path / "data")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path / "data" / "MNIST" / "raw"


def test_a_damaged_archive_without_network(copied_data, capsys):
    archive = copied_data / "train-images-idx3-ubyte.gz"
    archive.write_bytes(archive.read_bytes()[:1000])
    refused(capsys, ("damaged", "git checkout"), common.load_mnist, status=1)
    assert archive.stat().st_size == 1000  # left as it was


def test_a_damaged_archive_is_downloaded_again(copied_data, monkeypatch):
    handler = functools.partial(
        SimpleHTTPRequestHandler, directory=HERE / "data" / "MNIST" / "raw"
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        mirror = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets.MNIST, "mirrors", [mirror])
        archive = copied_data / "t10k-labels-idx1-ubyte.gz"
        good = archive.read_bytes()
        archive.write_bytes(b"damaged")
        assert len(common.load_mnist(train=False)[0]) == 10_000
        server.shutdown()
    assert archive.read_bytes() == good
    assert [path.suffix for path in copied_data.iterdir()] == [".gz"] * 4


def arguments(**given):
    given = {"resume": None, "out": None, "device": "cpu", "epochs": 1} | given
    return argparse.Namespace(**given)


def test_run_folders_are_numbered_and_never_reused():
    runs = [common.run_folder("x", arguments()) for _ in range(3)]
    assert [str(run) for run in runs] == ["runs/x/1", "runs/x/2", "runs/x/3"]
    Path("runs/x/10").mkdir()
    Path("runs/x/notes").mkdir()
    assert common.run_folder("x", arguments()).name == "11"
    assert common.run_folder("x", arguments(out="a/b")) == Path("a/b")
    assert common.run_folder("x", arguments(resume="a/b/checkpoint.pt")) == Path("a/b")


def test_two_runs_that_want_the_same_number(monkeypatch):
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(()))  # both see no runs
    runs = [common.run_folder("x", arguments()) for _ in range(2)]
    assert [run.name for run in runs] == ["1", "2"]


def test_out_must_be_empty_and_writable(capsys):
    Path("full").mkdir()
    Path("full/thesis.txt").write_text("dear")
    refused(capsys, "not empty", common.run_folder, "x", arguments(out="full"))
    out = "full/thesis.txt"
    refused(capsys, "cannot write", common.run_folder, "x", arguments(out=out))
    out = "full/thesis.txt/below"
    refused(capsys, "cannot write", common.run_folder, "x", arguments(out=out))
    assert [path.name for path in Path("full").iterdir()] == ["thesis.txt"]
    assert Path("full/thesis.txt").read_text() == "dear"


def test_a_checkpoint_brings_everything_back():
    net = nn.Linear(3, 2)
    optim = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optim.step()
    parts = {"net": net, "optim": optim}
    common.save_checkpoint(Path(), "x", arguments(lr=0.1), parts, epoch=3, history={})
    expected = torch.randn(5)
    other = nn.Linear(3, 2)
    other_optim = torch.optim.Adam(other.parameters(), lr=0.5)
    checkpoint = common.load_checkpoint("checkpoint.pt", "x")
    common.restore(checkpoint, {"net": other, "optim": other_optim}, "cpu")
    assert same(other.state_dict(), net.state_dict())
    assert same(other_optim.state_dict(), optim.state_dict())
    assert torch.equal(torch.randn(5), expected)
    assert checkpoint["arguments"] == {"lr": 0.1, "epochs": 1}
    assert checkpoint["epoch"] == 3


def test_a_checkpoint_is_written_whole_or_not_at_all(monkeypatch):
    net = nn.Linear(3, 2)
    common.save_checkpoint(Path(), "x", arguments(), {"net": net}, epoch=1)
    before = Path("checkpoint.pt").read_bytes()

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        common.save_checkpoint(Path(), "x", arguments(), {"net": net}, epoch=2)
    with pytest.raises(OSError, match="No space left"):
        common.save_generator(net, (torch.ones(2, 3),), Path(), "x", arguments())
    assert Path("checkpoint.pt").read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["checkpoint.pt"]


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_checkpoints_that_are_none(capsys):
    common.save_checkpoint(Path(), "x", arguments(), {}, epoch=1)
    good = Path("checkpoint.pt").read_bytes()
    cuts = [f"cut_{n}" for n in range(0, len(good), 101)]
    for name in cuts:
        Path(f"{name}.pt").write_bytes(good[: int(name[4:])])
    Path("text.pt").write_text("hello")
    Path("folder").mkdir()
    torch.save({"weights": torch.ones(3)}, "plain.pt")
    torch.save([1, 2], "list.pt")
    torch.save({"script": "x", "parts": Attack()}, "attack.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Attack()))
    for name in (*cuts, "text", "plain", "list", "attack", "pickle"):
        refused(capsys, "no checkpoint", common.load_checkpoint, f"{name}.pt", "x")
    assert not Path("owned").exists()
    refused(capsys, "No such file", common.load_checkpoint, "no.pt", "x")
    refused(capsys, "cannot read", common.load_checkpoint, "folder", "x")
    refused(capsys, "x.py", common.load_checkpoint, "checkpoint.pt", "y")


def test_a_generator_is_saved_and_loaded():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    common.save_generator(net, (torch.randn(5, 4),), Path(), "x", arguments())
    assert net.training  # what was saved is a copy in eval mode
    net.eval()
    loaded, (example,), trained = common.load_generator("generator.pt2", "x")
    assert example.shape == (2, 4) and trained == {"epochs": 1}
    for n in (1, 2, 9):
        noise = torch.randn(n, 4)
        assert torch.equal(loaded(noise), net(noise))


def test_generators_that_are_none(capsys):
    common.save_generator(
        nn.Linear(4, 3), (torch.randn(5, 4),), Path(), "x", arguments()
    )
    good = bytearray(Path("generator.pt2").read_bytes())
    Path("cut.pt2").write_bytes(good[: len(good) // 2])
    Path("text.pt2").write_text("hello")
    torch.save({"a": 1}, "checkpoint.pt2")
    with zipfile.ZipFile("generator.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    (weights,) = [contents[name] for name in contents if name.endswith("weight_0")]
    good[good.index(weights)] ^= 1
    Path("flipped.pt2").write_bytes(good)
    with zipfile.ZipFile("attack.pt2", "w") as archive:
        for name, content in contents.items():
            bad = pickle.dumps(Attack()) if name.endswith(".pt") else content
            archive.writestr(name, bad)
    with zipfile.ZipFile("custom.pt2", "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
        archive.writestr("x/data/constants/custom_obj_0", b"")
    for name in ("cut", "text", "checkpoint", "flipped", "attack", "custom"):
        refused(capsys, "no generator", common.load_generator, f"{name}.pt2", "x")
    assert not Path("owned").exists()
    refused(capsys, "No such file", common.load_generator, "no.pt2", "x")
    refused(capsys, "x.py", common.load_generator, "generator.pt2", "y")


def test_frechet_distance_of_known_gaussians():
    torch.manual_seed(0)
    x = torch.randn(2000, 3)
    assert common.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([3.0, 0.0, 4.0])
    assert common.frechet_distance(x, x + shift) == pytest.approx(25, rel=1e-4)
    centred = x - x.mean(0)  # twice as wide: tr C + 4 tr C - 2 * 2 tr C = tr C
    wide = common.frechet_distance(centred, 2 * centred)
    assert wide == pytest.approx(torch.cov(x.T).trace().item(), rel=1e-4)


def test_losses_that_are_no_numbers_stop_the_run(capsys):
    common.check_finite(loss_D=1.0, loss_G=0.0)
    for value in (float("nan"), float("inf"), -float("inf")):
        losses = {"loss_D": 1.0, "loss_G": value}
        words = ("loss_G", "learning rate")
        refused(capsys, words, common.check_finite, status=1, **losses)


def test_errors_in_one_line(capsys):
    def call(error):
        with common.one_line_errors(Path()):
            raise error

    refused(capsys, "no checkpoint", call, KeyboardInterrupt(), status=130)
    Path("checkpoint.pt").touch()
    go_on = "--resume checkpoint.pt"
    refused(capsys, go_on, call, KeyboardInterrupt(), status=130)
    disk = OSError(28, "No space left on device")
    refused(capsys, ("No space left", go_on), call, disk, status=1)
    nan = RuntimeError("all elements of input should be between 0 and 1")
    refused(capsys, ("NaN", "start again"), call, nan, status=1)
    with pytest.raises(RuntimeError, match="a bug"):
        call(RuntimeError("a bug"))


# --- mnist_gan.py ---------------------------------------------------------------------


def files_of(run):
    return {path.name for path in Path(run).rglob("*") if "tfevents" not in path.name}


RESULTS = {"samples", "losses.png", "training.gif", "metrics.json", "generator.pt2"}
STATES = {"generator.pth", "discriminator.pth"}  # what mnist_gan.py saves as well


def test_mnist_gan_end_to_end(small_mnist, capsys):
    metrics = mnist_gan.main(["--epochs", "2", "--device", "cpu"])
    out = capsys.readouterr().out
    run = Path("runs/mnist_gan/1")
    assert "Epoch 02 | Step 0003 / 3 | Loss_D " in out and str(run) in out
    pictures = {"epoch_0001.png", "epoch_0002.png"}
    assert files_of(run) == RESULTS | STATES | pictures | {"checkpoint.pt"}
    assert list(run.glob("events.out.tfevents.*"))
    for name in pictures:
        assert Image.open(run / "samples" / name).size == (242, 242)  # 8 x 8 digits
    assert Image.open(run / "training.gif").n_frames == 2
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert metrics["arguments"]["seed"] == 0
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)
    assert metrics["score"]["frechet_pixels"] > 0
    assert sum(metrics["score"]["digit_shares"]) == pytest.approx(1)

    torch.manual_seed(0)  # the weights that both nets started from
    G, D = mnist_gan.Generator(), mnist_gan.Discriminator()
    parts = checkpoint_of(run)["parts"]
    for net, state in ((G, parts["G"]), (D, parts["D"])):
        for name, start in net.state_dict().items():
            assert not torch.equal(start, state[name])
    average = parts["average_G"]["module.model.0.weight"]
    assert not torch.equal(average, parts["G"]["model.0.weight"])
    for optim, decay in (("optim_G", 0.0), ("optim_D", 0.3)):
        (group,) = parts[optim]["param_groups"]
        assert group["betas"] == (0.5, 0.999) and group["lr"] == 0.001
        assert group["weight_decay"] == decay


def test_mnist_gan_nets_are_the_documents():
    G, D = mnist_gan.Generator(), mnist_gan.Discriminator()
    shapes = [tuple(p.shape) for p in G.parameters()]
    assert shapes == [(256, 100), (256,), (256, 256), (256,), (784, 256), (784,)]
    shapes = [tuple(p.shape) for p in D.parameters()]
    assert shapes == [(256, 784), (256,), (256, 256), (256,), (1, 256), (1,)]
    images = G(torch.randn(5, 100))
    assert images.shape == (5, 784) and images.abs().max() <= 1
    output = D(images)
    assert output.shape == (5, 1) and 0 < output.min() and output.max() < 1
    kinds = [type(layer).__name__ for layer in G.model]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "Tanh"]
    kinds = [type(layer).__name__ for layer in D.model]
    assert kinds == ["Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear", "Sigmoid"]


def test_mnist_gan_updates_touch_one_net_each():
    G, D = mnist_gan.Generator(), mnist_gan.Discriminator()
    optim_G = torch.optim.Adam(G.parameters())
    optim_D = torch.optim.Adam(D.parameters())
    bce = nn.BCELoss()

    def states():
        return {
            name: {key: value.clone() for key, value in net.state_dict().items()}
            for name, net in (("G", G), ("D", D))
        }

    before = states()
    real = torch.rand(6, 784)
    loss = mnist_gan.train_discriminator(real, D, G, bce, optim_D, 100)
    after = states()
    assert loss.shape == () and loss.isfinite() and not loss.requires_grad
    assert same(before["G"], after["G"]) and not same(before["D"], after["D"])
    assert all(p.grad is None for p in G.parameters())

    optim_D.zero_grad()
    before = after
    loss = mnist_gan.train_generator(D, G, bce, optim_G, 6, 100, "cpu")
    after = states()
    assert loss.shape == () and loss.isfinite() and not loss.requires_grad
    assert same(before["D"], after["D"]) and not same(before["G"], after["G"])
    assert all(p.grad is None for p in D.parameters())


class Judge(nn.Module):
    """A discriminator that says 0.9 to images that are all ones, and 0.2 to others."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.one * torch.where((x == 1).all(1, keepdim=True), 0.9, 0.2)


def test_mnist_gan_losses_are_the_documents():
    G, D, bce = mnist_gan.Generator(), Judge(), nn.BCELoss()
    still = torch.optim.SGD(D.parameters(), lr=0.0)
    loss = mnist_gan.train_discriminator(torch.ones(6, 784), D, G, bce, still, 100)
    assert loss.item() == pytest.approx(-math.log(0.9) - math.log(0.8), rel=1e-5)
    linear = nn.Sequential(nn.Linear(784, 1), nn.Sigmoid())
    nn.init.zeros_(linear[0].weight)
    nn.init.constant_(linear[0].bias, math.log(0.2 / 0.8))
    loss = mnist_gan.train_generator(linear, G, bce, still, 6, 100, "cpu")
    assert loss.item() == pytest.approx(-math.log(0.2), rel=1e-5)


def test_mnist_gan_average_forgets_its_start_and_then_moves_slowly():
    rule = mnist_gan.moving_average(0.99)
    old, new = torch.zeros(3), torch.ones(3)
    assert rule(old, new, torch.tensor(1)).tolist() == pytest.approx([9 / 11] * 3)
    assert rule(old, new, torch.tensor(5000)).tolist() == pytest.approx([0.01] * 3)
    none = mnist_gan.moving_average(0.0)
    assert none(old, new, torch.tensor(5000)).tolist() == [1.0] * 3


def test_mnist_gan_scores_tell_digits_from_noise(mnist):
    real = mnist[True][0][-10_000:].view(-1, 784) / 127.5 - 1
    good = mnist_gan.score(lambda noise: real[: len(noise)], 100, "cpu")
    assert 0.2 < good["frechet_pixels"] < 1
    assert good["digit_entropy"] > 2.29
    ones = real[mnist[True][1][-10_000:] == 1]  # a generator that knows one digit
    one = mnist_gan.score(lambda noise: ones.repeat(10, 1)[: len(noise)], 100, "cpu")
    assert one["frechet_pixels"] > 10 and one["digit_shares"][1] > 0.95
    assert one["digit_entropy"] < 0.3
    noise = torch.rand(10_000, 784)
    bad = mnist_gan.score(lambda _: noise, 100, "cpu", unit_range=True)
    assert bad["frechet_pixels"] > 50


def test_mnist_gan_draws_as_many_fakes_as_there_are_images(small_mnist, monkeypatch):
    train_generator, G_sizes, D_sizes = mnist_gan.train_generator, [], []

    def recorded(D, G, loss_func, optim_G, batch_size, input_dim, device):
        G_sizes.append(batch_size)
        return train_generator(D, G, loss_func, optim_G, batch_size, input_dim, device)

    monkeypatch.setattr(mnist_gan, "train_generator", recorded)
    mnist_gan.main(["--epochs", "1", "--device", "cpu"])
    assert G_sizes == [128, 128, 44]

    G, D = mnist_gan.Generator(), mnist_gan.Discriminator()
    G.register_forward_hook(lambda net, noise, images: D_sizes.append(len(images)))
    D.register_forward_hook(lambda net, images, output: D_sizes.append(len(output)))
    optim_D = torch.optim.Adam(D.parameters())
    mnist_gan.train_discriminator(torch.rand(44, 784), D, G, nn.BCELoss(), optim_D, 100)
    assert D_sizes == [44, 88]


def test_mnist_gan_scales_images_to_what_tanh_gives(small_mnist):
    images, labels = mnist_gan.load_images("cpu")
    assert images.shape == (300, 784) and len(labels) == 300
    assert images.min() == -1 and images.max() == 1
    images, _ = mnist_gan.load_images("cpu", unit_range=True)
    assert images.min() == 0 and images.max() == 1


@pytest.mark.parametrize("script", [mnist_gan, mnist_cgan])
def test_tensorboard_has_one_picture_an_epoch_after_a_resume(script, small_mnist):
    options = ["--batch-size", "128", "--device", "cpu"]
    script.main([*options, "--max-steps", "4", "--out", "run"])  # a step of epoch 2
    script.main(["--resume", "run/checkpoint.pt", "--epochs", "2", "--device", "cpu"])
    events = EventAccumulator("run").Reload()
    assert [image.step for image in events.Images("Generated Images")] == [3, 6]
    assert [loss.step for loss in events.Scalars("Loss/G")] == [3, 6]


def test_mixed_precision_keeps_weights_and_sees_new_ones():
    net, x = nn.Linear(4, 3), torch.ones(2, 4)
    args = argparse.Namespace(bfloat16=True)
    with common.mixed_precision(args):
        old = net(x)
        with torch.no_grad():
            net.weight += 1
        new = net(x)
    assert old.dtype == torch.bfloat16 and new.sub(old).sub(4).abs().max() < 0.1
    new.sum().backward()
    assert net.weight.dtype == net.weight.grad.dtype == torch.float32
    args.bfloat16 = False
    with common.mixed_precision(args):
        assert net(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("script", "nets"),
    [
        (mnist_gan, "--nets mlp"),
        (mnist_gan, "--nets batchnorm"),
        (mnist_cgan, ""),
        (aae_mnist, ""),
    ],
)
def test_bfloat16_changes_only_how_numbers_are_rounded(script, nets, small_mnist):
    losses, parts = [], []
    options = [*nets.split(), "--epochs", "1", "--batch-size", "100", "--device", "cpu"]
    for flag in ("--bfloat16", "--no-bfloat16"):
        losses.append(script.main([*options, flag, "--out", flag[2:]])["losses"])
        parts.append(checkpoint_of(flag[2:])["parts"])
    assert not same(*parts)
    for name in ("loss_D", "loss_G"):
        assert losses[0][name] == pytest.approx(losses[1][name], rel=0.05)
    kinds = {
        x.dtype
        for run in parts
        for name, state in run.items()
        if not name.startswith("optim")
        for x in state.values()
    }
    assert kinds <= {torch.float32, torch.int64}


def test_a_run_may_go_on_without_bfloat16(small_mnist):
    aae_mnist.main(["--bfloat16", "--epochs", "1", "--device", "cpu", "--out", "run"])
    resume = ["--resume", "run/checkpoint.pt", "--device", "cpu"]
    for epochs, flag in ("2", []), ("3", ["--no-bfloat16"]), ("4", []):
        metrics = aae_mnist.main([*resume, "--epochs", epochs, *flag])
        assert metrics["arguments"]["bfloat16"] is (epochs == "2")


def test_mnist_gan_resume_equals_never_stopping(small_mnist):
    mnist_gan.main(["--epochs", "3", "--device", "cpu", "--out", "whole"])
    mnist_gan.main(["--epochs", "1", "--device", "cpu", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--device", "cpu"]
    mnist_gan.main([*resume, "--epochs", "2"])
    mnist_gan.main([*resume, "--epochs", "3"])
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    del whole["seconds"], parts["seconds"]
    assert same(whole, parts)
    assert files_of("whole") == files_of("parts")
    for name in ("epoch_0001.png", "epoch_0002.png", "epoch_0003.png"):
        a, b = Path("whole/samples", name), Path("parts/samples", name)
        assert a.read_bytes() == b.read_bytes()
    scores = [
        json.loads(Path(x, "metrics.json").read_text()) for x in ("whole", "parts")
    ]
    assert scores[0]["score"] == scores[1]["score"]
    assert scores[0]["losses"] == scores[1]["losses"]


def test_mnist_gan_interrupted_in_the_middle(small_mnist, monkeypatch, capsys):
    train_generator = mnist_gan.train_generator
    calls = []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:  # the second step of the second epoch
            raise KeyboardInterrupt
        return train_generator(*args)

    monkeypatch.setattr(mnist_gan, "train_generator", interrupted)
    start = ["--epochs", "2", "--device", "cpu", "--out", "run"]
    words = ("interrupted", "--resume run/checkpoint.pt")
    refused(capsys, words, mnist_gan.main, start, status=130)
    assert not Path("run/generator.pt2").exists()
    resume = ["--resume", "run/checkpoint.pt", "--device", "cpu"]
    mnist_gan.main([*resume, "--epochs", "1"])  # ends the run where it stands
    assert files_of("run") == RESULTS | STATES | {"epoch_0001.png", "checkpoint.pt"}
    mnist_gan.main(resume)
    mnist_gan.main(["--epochs", "2", "--device", "cpu", "--out", "whole"])
    a, b = checkpoint_of("run"), checkpoint_of("whole")
    assert same(a["parts"], b["parts"]) and same(a["rng"], b["rng"])


def test_mnist_gan_stops_when_a_loss_is_nan(small_mnist, monkeypatch, capsys):
    mnist_gan.main(["--epochs", "1", "--device", "cpu", "--out", "run"])
    before = Path("run/checkpoint.pt").read_bytes()
    nan = torch.tensor(float("nan"))
    monkeypatch.setattr(mnist_gan, "train_generator", lambda *_: nan)
    resume = ["--resume", "run/checkpoint.pt", "--epochs", "2", "--device", "cpu"]
    refused(
        capsys, ("loss_G is nan", "learning rate"), mnist_gan.main, resume, status=1
    )
    assert Path("run/checkpoint.pt").read_bytes() == before


def test_mnist_gan_that_really_diverges(small_mnist, capsys):
    start = ["--lr", "1e30", "--epochs", "2", "--device", "cpu"]
    refused(capsys, "learning rate", mnist_gan.main, start, status=1)


def test_mnist_gan_max_steps(small_mnist):
    mnist_gan.main(["--max-steps", "4", "--device", "cpu", "--out", "run"])
    pictures = {"epoch_0001.png", "epoch_0001_step_0001.png"}
    assert files_of("run") == RESULTS | STATES | pictures | {"checkpoint.pt"}
    assert checkpoint_of("run")["epoch"] == 1
    mnist_gan.main(
        ["--resume", "run/checkpoint.pt", "--epochs", "2", "--device", "cpu"]
    )
    assert checkpoint_of("run")["epoch"] == 2


def test_mnist_gan_generates_from_a_saved_generator(small_mnist, capsys):
    mnist_gan.main(["--epochs", "2", "--device", "cpu", "--out", "run"])
    G = mnist_gan.Generator()
    average = checkpoint_of("run")["parts"]["average_G"]
    G.load_state_dict({k[7:]: v for k, v in average.items() if k.startswith("module.")})
    saved_G, *_ = common.load_generator("run/generator.pt2", "mnist_gan")
    noise = torch.randn(7, 100)
    images = saved_G(noise)
    assert images.shape == (7, 1, 28, 28)
    assert torch.equal(images.flatten(1), G(noise))

    small = ["--input-dim", "5", "--hidden-dim", "8", "--max-steps", "1"]
    mnist_gan.main([*small, "--device", "cpu", "--out", "small"])
    mnist_gan.main(["--generate", "small/generator.pt2", "--out", "from_small"])
    assert Path("from_small/samples/generated.png").exists()

    pictures = []
    for seed, out in (("3", "a"), ("3", "b"), ("4", "c")):
        options = ["--generate", "run/generator.pt2", "--n", "10", "--seed", seed]
        mnist_gan.main([*options, "--out", out])
        pictures.append(Path(out, "samples", "generated.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    assert Image.open("a/samples/generated.png").size == (122, 92)  # 4 x 3 digits


def test_mnist_gan_document_undoes_every_departure():
    args, _ = mnist_gan.parse(["--document"])
    default, _ = mnist_gan.parse(["--bfloat16"])  # not the default on every processor
    for name, value in mnist_gan.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name)
    args, _ = mnist_gan.parse(["--document", "--lr", "0.5", "--no-unit-range"])
    assert args.lr == 0.5 and not args.unit_range
    assert args.beta1 == mnist_gan.DOCUMENT["beta1"]


def test_mnist_gan_bad_input(small_mnist, capsys):
    mnist_gan.main(["--epochs", "1", "--device", "cpu", "--out", "run"])
    before = {path: path.read_bytes() for path in Path("run").rglob("*.*")}
    checkpoint, generator = "run/checkpoint.pt", "run/generator.pt2"
    cut = Path(checkpoint).read_bytes()[:5000]
    Path("cut.pt").write_bytes(cut)
    shutil.copy(checkpoint, "renamed.pt")
    state = checkpoint_of("run")
    torch.save(state | {"script": "curve_gan"}, "other.pt")
    Path("old").mkdir()
    torch.save(state | {"parts": {}}, "old/checkpoint.pt")
    for options, word in [
        ("--batch-size 0", "--batch-size"),
        ("--epochs -1", "--epochs"),
        ("--lr 0", "--lr"),
        ("--lr x", "--lr"),
        ("--seed -1", "--seed"),
        ("--beta1 1", "--beta1"),
        ("--max-steps 0", "--max-steps"),
        ("--batch-size 70000", "70000"),
        ("--device tpu", "--device"),
        ("--out run", "not empty"),
        ("--out cut.pt", "cannot write"),
        ("--resume cut.pt", "damaged"),
        ("--resume other.pt", "curve_gan.py"),
        ("--resume nothing.pt", "No such file"),
        ("--resume renamed.pt", "checkpoint.pt"),
        ("--resume old/checkpoint.pt", "does not fit"),
        (f"--resume {generator}", "no checkpoint"),
        (f"--resume {checkpoint} --lr 0.5", "--lr"),
        (f"--resume {checkpoint} --document", "--document"),
        (f"--resume {checkpoint} --out new", "--resume"),
        (f"--generate {checkpoint}", "no generator"),
        ("--generate nothing.pt2", "No such file"),
        ("--generate cut.pt", "no generator"),
        (f"--generate {generator} --n 0", "--n"),
        (f"--generate {generator} --out run", "not empty"),
    ]:
        refused(capsys, word, mnist_gan.main, options.split())
    assert not Path("runs").exists() and not Path("new").exists()
    assert {path: path.read_bytes() for path in Path("run").rglob("*.*")} == before


def test_mnist_gan_as_a_program():
    script = [sys.executable, HERE / "mnist_gan.py"]
    options = ["--max-steps", "2", "--verbose"]
    done = subprocess.run(
        [*script, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Step 0002 / 469" in done.stdout and not done.stderr
    assert files_of("runs/mnist_gan/1") == RESULTS | STATES | {
        "epoch_0000_step_0002.png"
    }


# --- linear_gan.py --------------------------------------------------------------------


def test_linear_gan_losses_fit_after_a_resume():
    _, lines, _ = linear_gan.create_figure(torch.zeros(100, 2), 3)
    linear_gan.display_losses([0.5, 0.6, 0.7], [2.4, 1.0, 0.8], lines)  # all at once
    assert lines[0].axes.get_ylim() == (0, 3)


def test_linear_gan_end_to_end(capsys):
    metrics = linear_gan.main(["--epochs", "2", "--device", "cpu"])
    out = capsys.readouterr().out
    run = Path("runs/linear_gan/1")
    assert "2-Wasserstein distance: " in out and str(run) in out
    pictures = {"epoch_0001.png", "epoch_0002.png"}
    assert files_of(run) == RESULTS | pictures | {"checkpoint.pt"}
    assert Image.open(run / "training.gif").n_frames == 2
    assert json.loads((run / "metrics.json").read_text()) == metrics
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)
    parts = checkpoint_of(run)["parts"]
    for name in ("G", "D"):  # all started within 5 x 0.02 of 0, and moved
        assert any(value.abs().max() > 0.1 for value in parts[name].values())


def test_linear_gan_data_are_the_documents():
    torch.manual_seed(0)
    data = torch.cat([linear_gan.create_data() for _ in range(100)])
    assert data.shape == (100_000, 2)
    assert data.mean(0).tolist() == pytest.approx([1, 2], abs=0.05)
    covariance = [1.01, 1.95, 1.95, 4.25]  # A^T A
    assert torch.cov(data.T).flatten().tolist() == pytest.approx(covariance, abs=0.1)


def test_linear_gan_updates_touch_one_net_each():
    G, D = linear_gan.Generator(), linear_gan.Discriminator()
    loss, trainer_D, trainer_G = linear_gan.init_params(D, G, 0.05, 0.005)
    weights = torch.cat([p.flatten() for p in (*D.parameters(), *G.parameters())])
    assert 0.01 < weights.std() < 0.03
    X, Z = torch.randn(8, 2), torch.randn(8, 2)
    before = copy.deepcopy((G.state_dict(), D.state_dict()))
    value = linear_gan.update_D(X, Z, D, G, loss, trainer_D)
    assert same(before[0], G.state_dict()) and not same(before[1], D.state_dict())
    assert value.item() == pytest.approx(8 * math.log(2), rel=0.05)  # D knows nothing
    assert all(p.grad is None for p in G.parameters())
    trainer_D.zero_grad()
    before = copy.deepcopy((G.state_dict(), D.state_dict()))
    value = linear_gan.update_G(Z, D, G, loss, trainer_G)
    assert same(before[1], D.state_dict()) and not same(before[0], G.state_dict())
    assert value.item() == pytest.approx(8 * math.log(2), rel=0.05)
    assert all(p.grad is None for p in D.parameters())


def test_linear_gan_learns_and_its_score_sees_it():
    untrained = linear_gan.main(["--max-steps", "1", "--device", "cpu"])
    trained = linear_gan.main(["--epochs", "15", "--device", "cpu"])
    assert untrained["score"]["wasserstein_2"] > 2
    assert trained["score"]["wasserstein_2"] < 0.8


def test_linear_gan_resume_equals_never_stopping():
    linear_gan.main(["--epochs", "3", "--device", "cpu", "--out", "whole"])
    linear_gan.main(["--max-steps", "130", "--device", "cpu", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--device", "cpu", "--epochs", "3"]
    linear_gan.main(resume)
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    for checkpoint in (whole, parts):
        del checkpoint["seconds"], checkpoint["arguments"]["epochs"]
    assert same(whole, parts)
    a, b = (
        Path(run, "samples/epoch_0003.png").read_bytes() for run in ("whole", "parts")
    )
    assert a == b


def test_linear_gan_generates_and_refuses(capsys):
    linear_gan.main(["--epochs", "1", "--device", "cpu", "--out", "run"])
    G = linear_gan.Generator()
    G.load_state_dict(checkpoint_of("run")["parts"]["G"])
    saved_G, *_ = common.load_generator("run/generator.pt2", "linear_gan")
    Z = torch.randn(7, 2)
    assert torch.equal(saved_G(Z), G(Z))
    linear_gan.main(["--generate", "run/generator.pt2", "--out", "more", "--n", "9"])
    assert Path("more/samples/generated.png").exists()
    for options, word in [
        ("--batch-size 0", "--batch-size"),
        ("--batch-size 1001", "1000"),
        ("--lr-D 0", "--lr-D"),
        ("--out run", "not empty"),
        ("--resume run/generator.pt2", "no checkpoint"),
        ("--resume run/checkpoint.pt --lr-G 0.5", "--lr-G"),
        ("--generate run/checkpoint.pt", "no generator"),
    ]:
        refused(capsys, word, linear_gan.main, options.split())
    refused(
        capsys, "linear_gan.py", mnist_gan.main, ["--generate", "run/generator.pt2"]
    )
    assert not Path("runs").exists()


def test_linear_gan_document_undoes_every_departure():
    args, _ = linear_gan.parse(["--document"])
    default, _ = linear_gan.parse([])
    for name, value in linear_gan.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name)


def test_figures_that_move_are_drawn_in_full():
    fig, (axes,) = common.new_figure(1, (4, 3))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    (line,) = axes.plot([], [])
    pictures = []
    for data in ([0, 1], [0, 0.5], [0, 1]):
        line.set_data([0, 1], data)
        common.save_figure(fig, [line], "a.png")
        pictures.append(Path("a.png").read_bytes())
    assert pictures[0] == pictures[2] != pictures[1]  # nothing of the second is left
    axes.set_ylim(0, 2)
    common.save_figure(fig, [line], "a.png")
    assert Path("a.png").read_bytes() != pictures[2]  # the axis is drawn anew
    assert Image.open("a.png").size == (240, 180)


def test_linear_gan_show_without_a_screen(capsys, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    refused(capsys, "screen", linear_gan.main, ["--show", "--max-steps", "1"])


# --- curve_gan.py ---------------------------------------------------------------------


def test_early_stop_stops_when_and_only_when_it_should():
    for script in (curve_gan, numbers_gan):
        stopper = script.EarlyStop(3)
        said = [stopper.stop(gdif) for gdif in (5, 4, 4, 6, 3, 3, 4, 2, 9, 9, 9)]
        assert said == [False] * 10 + [True]  # an equal gdif is no improvement
        assert stopper.min_gdif == 2 and stopper.steps == 3
        better = script.EarlyStop(1)
        assert not any(better.stop(-x) for x in range(50))
    assert curve_gan.EarlyStop().patience == 1000
    assert numbers_gan.EarlyStop().patience == 800


@pytest.mark.parametrize("curve", list(curve_gan.CURVES))
def test_curve_gan_data_and_quality(curve):
    torch.manual_seed(0)
    data = curve_gan.create_data(curve)
    f, _, (low, high), (bottom, top) = curve_gan.CURVES[curve]
    assert data.shape == (2048, 2) and curve_gan.performance(data, curve) < 1e-9
    assert low <= data[:, 0].min() < low + 0.1 and high - 0.1 < data[:, 0].max() <= high
    assert bottom <= data[:, 1].min() and data[:, 1].max() <= top

    variance = data[:, 1].var().item()
    good = curve_gan.create_data(curve, 4096)
    assert curve_gan.gap(**curve_gan.quality(good, curve, variance)) < 0.5
    collapsed = (
        good.clone()
    )  # near one point, on the curve: the document's rule likes it
    collapsed[:, 0] = low + (high - low) * (0.01 + 0.01 * torch.rand(4096))
    collapsed[:, 1] = f(collapsed[:, 0])
    assert curve_gan.performance(collapsed, curve) < 1e-9
    assert curve_gan.gap(**curve_gan.quality(collapsed, curve, variance)) > 5
    half = (
        good.clone()
    )  # the half of the range that it leaves out has a tenth of the points
    middle = (low + high) / 2
    half[3000:, 0] = low + (good[3000:, 0] - low) / 2
    half = half[(half[:, 0] < middle) | (torch.rand(4096) < 0.2)]
    half[:, 1] = f(half[:, 0])
    assert curve_gan.gap(**curve_gan.quality(half, curve, variance)) > 1
    off = good + torch.tensor([0.0, 0.1 * variance**0.5])
    off = curve_gan.quality(off, curve, variance)
    assert off["error"] == pytest.approx(0.01, rel=0.01) and curve_gan.gap(**off) > 1.9
    wide = good.clone()
    wide[:200, 0] = high + 0.01 * (high - low)
    wide[:, 1] = f(wide[:, 0])
    wide = curve_gan.quality(wide, curve, variance)
    assert wide["outside"] == pytest.approx(200 / 4096) and curve_gan.gap(**wide) > 2
    fine = {"error": 0.004, "least": 0.6, "most": 1.9, "outside": 0.019}
    assert curve_gan.gap(**fine) < 1
    limits = {"error": 0.0051, "least": 0.49, "most": 2.01, "outside": 0.021}
    for name, value in limits.items():
        assert curve_gan.gap(**fine | {name: value}) > 1


def curve_nets(**options):
    data = curve_gan.create_data("exponential")
    mean, std = data.mean(0), data.std(0)
    D = curve_gan.Discriminator(mean, std, **options)
    return data, D, curve_gan.Generator(mean, std)


def test_curve_gan_nets_are_the_documents():
    data, D, G = curve_nets(blur=0.0, dropout=0.3)
    shapes = [tuple(p.shape) for p in G.parameters()]
    assert shapes == [(16, 2), (16,), (32, 16), (32,), (2, 32), (2,)]
    shapes = [tuple(p.shape) for p in D.parameters() if p.dim() == 2]
    assert shapes == [(256, 2), (128, 256), (64, 128), (1, 64)]
    assert [layer.p for layer in D if isinstance(layer, nn.Dropout)] == [0.3] * 3
    assert G(torch.randn(7, 2)).shape == (7, 2)
    output = D(data)
    assert output.shape == (2048, 1) and 0 <= output.min() and output.max() <= 1
    scaled = D[0](data)  # what the nets see
    assert torch.allclose(scaled.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(scaled.std(0), torch.ones(2), atol=1e-5)
    assert torch.allclose(G[-1](scaled), data, atol=1e-4)


def test_curve_gan_blurs_in_training_only():
    torch.manual_seed(0)
    blur, points = curve_gan.Blur(0.1), torch.zeros(10_000, 2)
    assert blur(points).std().item() == pytest.approx(0.1, rel=0.05)
    assert torch.equal(blur.eval()(points), points)
    assert torch.equal(curve_gan.Blur(0.0)(points), points)


def test_curve_gan_updates_touch_one_net_each():
    data, D, G = curve_nets()
    bce, real = nn.BCELoss(), data[:8]
    optimD = torch.optim.Adam(D.parameters())
    optimG = torch.optim.Adam(G.parameters())
    for update in (
        lambda: curve_gan.train_D_on_real(real, D, bce, optimD),
        lambda: curve_gan.train_D_on_fake(8, D, G, bce, optimD),
    ):
        before = copy.deepcopy((G.state_dict(), D.state_dict()))
        loss = update()
        assert loss.item() == pytest.approx(math.log(2), rel=0.2)
        assert same(before[0], G.state_dict()) and not same(before[1], D.state_dict())
        assert all(p.grad is None for p in G.parameters())
    optimD.zero_grad()
    before = copy.deepcopy((G.state_dict(), D.state_dict()))
    loss, fake_samples = curve_gan.train_G(8, D, G, bce, optimG)
    assert loss.item() == pytest.approx(math.log(2), rel=0.2)
    assert fake_samples.shape == (8, 2) and not fake_samples.requires_grad
    assert same(before[1], D.state_dict()) and not same(before[0], G.state_dict())
    assert all(p.grad is None for p in D.parameters())


def test_curve_gan_labels_are_the_right_way_round():
    data, D, G = curve_nets(blur=0.0)
    nn.init.zeros_(D[-2].weight)
    nn.init.constant_(D[-2].bias, math.log(0.9 / 0.1))  # D says 0.9 to everything
    still, bce = torch.optim.SGD(D.parameters(), lr=0.0), nn.BCELoss()
    real = curve_gan.train_D_on_real(data[:8], D, bce, still)
    fake = curve_gan.train_D_on_fake(8, D, G, bce, still)
    loss_G, _ = curve_gan.train_G(8, D, G, bce, still)
    assert real.item() == pytest.approx(-math.log(0.9), rel=1e-4)
    assert fake.item() == pytest.approx(-math.log(0.1), rel=1e-4)
    assert loss_G.item() == pytest.approx(-math.log(0.9), rel=1e-4)


def test_curve_gan_end_to_end(capsys):
    options = ["--curve", "sine", "--epochs", "26", "--device", "cpu"]
    metrics = curve_gan.main(options)
    out = capsys.readouterr().out
    run = Path("runs/curve_gan/1")
    assert "at epoch 25, G loss: " in out and str(run) in out
    pictures = {f"epoch_{epoch:05d}.png" for epoch in (1, 25, 26)} | {"generated.png"}
    assert files_of(run) == RESULTS | pictures | {"checkpoint.pt"}
    assert Image.open(run / "training.gif").n_frames == 4
    assert json.loads((run / "metrics.json").read_text()) == metrics
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 52 and all(0 < loss < 20 for loss in losses)
    torch.manual_seed(0)  # the weights that both nets started from
    data = curve_gan.create_data("sine")
    D = curve_gan.Discriminator(data.mean(0), data.std(0))
    G = curve_gan.Generator(data.mean(0), data.std(0))
    parts = checkpoint_of(run)["parts"]
    for net, state in ((G, parts["G"]), (D, parts["D"])):
        for name, start in net.named_parameters():
            assert not torch.equal(start, state[name])


def test_curve_gan_first_weights_are_wider():
    mean, std = torch.zeros(2), torch.ones(2)
    plain, wide = (
        (torch.manual_seed(0), curve_gan.Generator(mean, std, scale))[1]
        for scale in (1.0, 2.0)
    )
    for p, q in zip(plain.parameters(), wide.parameters()):
        assert p.mul(2).equal(q)
    assert same(dict(plain.named_buffers()), dict(wide.named_buffers()))


@pytest.mark.parametrize(("half_life", "share"), [("1", 1 / 8), ("0", 1)])
def test_curve_gan_rates_halve(half_life, share):
    options = ["--epochs", "3", "--half-life", half_life, "--device", "cpu"]
    curve_gan.main([*options, "--out", "run"])
    parts = checkpoint_of("run")["parts"]
    for name, rate in (("optimG", 0.008), ("optimD", 0.001)):
        (group,) = parts[name]["param_groups"]
        assert group["lr"] == pytest.approx(rate * share)


def test_curve_gan_saves_the_best_generator_and_stops():
    # With such rates nothing improves after the first epoch.
    still = ["--lr-G", "1e-30", "--lr-D", "1e-30"]
    options = [*still, "--patience", "3", "--device", "cpu", "--out", "run"]
    metrics = curve_gan.main(options)
    assert len(metrics["losses"]["loss_D"]) == 4
    assert metrics["score"]["saved_epoch"] == 1

    quality, scores = curve_gan.quality, iter((3.0, 1.0, 2.0, 4.0))

    def planned(*args):
        return quality(*args) | {
            "most": 1 + next(scores, 0.0),
            "least": 0.9,
            "error": 0,
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve_gan, "quality", planned)
        options = ["--epochs", "4", "--device", "cpu", "--out", "planned"]
        metrics = curve_gan.main(options)
    assert metrics["score"]["saved_epoch"] == 2
    curve_gan.main(["--epochs", "2", "--device", "cpu", "--out", "two"])
    second = checkpoint_of("two")["parts"]["average_G"]
    saved, *_ = common.load_generator("planned/generator.pt2", "curve_gan")
    best = {f"module.{name}": value for name, value in saved.state_dict().items()}
    assert same({name: second[name] for name in best}, best)


def test_curve_gan_resume_equals_never_stopping():
    curve_gan.main(["--epochs", "3", "--device", "cpu", "--out", "whole"])
    curve_gan.main(["--epochs", "1", "--device", "cpu", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--device", "cpu", "--epochs", "3"]
    curve_gan.main(resume)
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    del whole["seconds"], parts["seconds"]
    assert same(whole, parts) and whole["stopper"][1] < math.inf
    generators = [
        common.load_generator(f"{run}/generator.pt2", "curve_gan")[0].state_dict()
        for run in ("whole", "parts")
    ]
    assert same(*generators)
    a, b = (Path(x, "samples/epoch_00003.png").read_bytes() for x in ("whole", "parts"))
    assert a == b


def test_curve_gan_a_stopped_run_goes_on_with_more_patience():
    still = ["--lr-G", "1e-30", "--lr-D", "1e-30", "--device", "cpu"]
    curve_gan.main([*still, "--patience", "5", "--out", "whole"])
    curve_gan.main([*still, "--patience", "2", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--device", "cpu"]
    assert checkpoint_of("parts")["epoch"] == 3
    curve_gan.main(resume)
    assert checkpoint_of("parts")["epoch"] == 3  # it has come to its end
    curve_gan.main([*resume, "--patience", "5"])
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    assert whole["epoch"] == parts["epoch"] == 6
    assert same(whole["parts"], parts["parts"]) and same(whole["rng"], parts["rng"])


def test_curve_gan_document_undoes_every_departure():
    args, _ = curve_gan.parse(["--document"])
    default, _ = curve_gan.parse([])
    for name, value in curve_gan.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name)
    options = ["--document", "--epochs", "2", "--device", "cpu", "--out", "run"]
    curve_gan.main(options)
    parts = checkpoint_of("run")["parts"]
    (group,) = parts["optimD"]["param_groups"]
    assert group["betas"] == (0.9, 0.999) and group["lr"] == 0.0005
    saved, *_ = common.load_generator("run/generator.pt2", "curve_gan")
    last = {name: value for name, value in parts["G"].items() if "mean" not in name}
    assert same({name: saved.state_dict()[name] for name in last}, last)
    assert parts["G"]["5.std"].tolist() == [1, 1]


def test_curve_gan_generates_and_refuses(capsys):
    options = ["--curve", "cosine", "--max-steps", "20", "--device", "cpu"]
    curve_gan.main([*options, "--out", "run"])
    assert "epoch_00001_step_0004.png" in files_of("run")
    generator, checkpoint = "run/generator.pt2", "run/checkpoint.pt"
    saved, (noise,), trained = common.load_generator(generator, "curve_gan")
    assert noise.shape[1] == 2 and trained["curve"] == "cosine"
    assert saved(torch.randn(3, 2)).shape == (3, 2)
    curve_gan.main(["--generate", generator, "--out", "more", "--n", "9"])
    assert Path("more/samples/generated.png").exists()
    capsys.readouterr()
    for options, word in [
        ("--curve spiral", "--curve"),
        ("--batch-size 0", "--batch-size"),
        ("--batch-size 2049", "2048"),
        ("--dropout 1", "--dropout"),
        ("--patience 0", "--patience"),
        ("--blur -1", "--blur"),
        ("--out run", "not empty"),
        (f"--resume {generator}", "no checkpoint"),
        (f"--resume {checkpoint} --curve sine", "--curve"),
        (f"--generate {checkpoint}", "no generator"),
    ]:
        refused(capsys, word, curve_gan.main, options.split())
    refused(capsys, "curve_gan.py", numbers_gan.main, ["--generate", generator])
    lr = ["--lr-G", "1e30", "--lr-D", "1e30", "--device", "cpu", "--out", "wild"]
    refused(capsys, "learning rate", curve_gan.main, lr, status=1)
    assert not Path("runs").exists()


# --- numbers_gan.py -------------------------------------------------------------------


def test_numbers_gan_one_hot_round_trips():
    assert numbers_gan.onehot_encoder(1, 5).tolist() == [0, 1, 0, 0, 0]
    onehot75 = numbers_gan.int_to_onehot(75)
    assert onehot75.shape == (100,) and onehot75[75] == 1 and onehot75.sum() == 1
    for number in range(100):
        assert numbers_gan.onehot_to_int(numbers_gan.int_to_onehot(number)) == number
    numbers = torch.randperm(100)
    vectors = numbers_gan.int_to_onehot(numbers)
    assert vectors.shape == (100, 100) and vectors.dtype == torch.float32
    assert torch.equal(numbers_gan.data_to_num(vectors), numbers)


@pytest.mark.parametrize("pattern", [(5, 0), (3, 0), (2, 1), (7, 3), (1, 0), (99, 98)])
def test_numbers_gan_sequences_have_the_pattern(pattern):
    torch.manual_seed(0)
    multiple, remainder = pattern
    possible = [x for x in range(100) if x % multiple == remainder]
    sequence = numbers_gan.gen_sequence(*pattern, n=5000)
    assert sorted(set(sequence.tolist())) == possible
    batch = numbers_gan.gen_batch(*pattern)
    assert batch.shape == (10, 100)
    assert set(numbers_gan.data_to_num(batch).tolist()) <= set(possible)


def test_numbers_gan_tells_good_from_collapsed_and_wrong():
    onehot = numbers_gan.int_to_onehot
    good = onehot(torch.arange(0, 100, 5).repeat(500))
    assert numbers_gan.distance(good) == 0
    assert numbers_gan.variation(good) == pytest.approx(0, abs=1e-6)
    score = numbers_gan.score(good)
    assert score["fit"] == pytest.approx(1) and score["appear"] == 20
    assert score["rarest"] == pytest.approx(1) == score["commonest"]

    zeros = onehot(torch.zeros(10_000, dtype=torch.int64))
    assert numbers_gan.distance(zeros) == 0  # the document's rule is fooled
    assert numbers_gan.variation(zeros) == pytest.approx(0.95)
    score = numbers_gan.score(zeros)
    assert score["fit"] == 1 and score["appear"] == 1
    assert score["rarest"] == 0 and score["commonest"] == pytest.approx(20)

    wrong = onehot(torch.arange(1, 100, 5).repeat(500))  # off by one, all of them
    assert numbers_gan.distance(wrong) == 1
    assert numbers_gan.variation(wrong) == pytest.approx(1)
    assert numbers_gan.score(wrong)["fit"] == 0
    assert numbers_gan.distance(wrong, 5, 1) == 0
    odd = onehot(torch.arange(1, 100, 2))
    assert numbers_gan.variation(odd, 2, 1) == pytest.approx(0, abs=1e-6)


def test_numbers_gan_updates_are_the_documents():
    D, G, bce = numbers_gan.Discriminator(), numbers_gan.Generator(), nn.BCELoss()
    shapes = [tuple(p.shape) for p in (*D.parameters(), *G.parameters())]
    assert shapes == [(1, 100), (1,), (100, 100), (100,)]
    still_D = torch.optim.SGD(D.parameters(), lr=0.0)
    still_G = torch.optim.SGD(G.parameters(), lr=0.0)
    moving_D = torch.optim.Adam(D.parameters())
    moving_G = torch.optim.Adam(G.parameters())
    before = copy.deepcopy((D.state_dict(), G.state_dict()))
    batch = numbers_gan.gen_batch()
    numbers_gan.train_D_G(batch, D, G, bce, moving_D, still_G)
    assert not same(before[0], D.state_dict()) and same(before[1], G.state_dict())
    before = copy.deepcopy((D.state_dict(), G.state_dict()))
    data, *losses = numbers_gan.train_D_G(batch, D, G, bce, still_D, moving_G)
    assert same(before[0], D.state_dict()) and not same(before[1], G.state_dict())
    assert data.shape == (10, 100) and data.min() >= 0 and not data.requires_grad

    nn.init.zeros_(D[0].weight)
    nn.init.constant_(D[0].bias, math.log(0.9 / 0.1))  # D says 0.9 to everything
    wanted = [-(math.log(0.9) + math.log(0.1)) / 2, -math.log(0.9)]
    for together in (True, False):
        updates = (batch, D, G, bce, still_D, still_G, together)
        _, *losses = numbers_gan.train_D_G(*updates)
        assert [loss.item() for loss in losses] == pytest.approx(wanted, rel=1e-4)


def test_numbers_gan_updates_D_once_or_twice():
    """Twice, first on what is real, as in the document; or once, on both."""
    bce, seen = nn.BCELoss(), {}
    for together in (True, False):
        torch.manual_seed(0)
        D, G = numbers_gan.Discriminator(), numbers_gan.Generator()
        rows = seen[together] = []
        D.register_forward_hook(lambda D, data, out, rows=rows: rows.append(*data))
        optims = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (D, G))
        batch = numbers_gan.gen_batch()
        numbers_gan.train_D_G(batch, D, G, bce, *optims, together)
        assert rows[0][:10].equal(batch)
    assert [len(data) for data in seen[True]] == [20, 10]
    assert [len(data) for data in seen[False]] == [10, 10, 10]


def test_numbers_gan_end_to_end(capsys):
    metrics = numbers_gan.main(["--epochs", "120", "--device", "cpu"])
    out = capsys.readouterr().out
    run = Path("runs/numbers_gan/1")
    assert "epoch   100: " in out and "possible numbers appear" in out
    pictures = {"epoch_00120.png", "generated.png"}
    assert files_of(run) == RESULTS | pictures | {"checkpoint.pt"}
    assert json.loads((run / "metrics.json").read_text()) == metrics
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)
    torch.manual_seed(0)  # the weights that both nets started from
    D, G = numbers_gan.Discriminator(), numbers_gan.Generator()
    parts = checkpoint_of(run)["parts"]
    for net, state in ((G, parts["G"]), (D, parts["D"])):
        assert not torch.equal(net[0].weight, state["0.weight"])


def test_numbers_gan_learns_and_stops():
    options = ["--epochs", "1500", "--average", "0.9", "--device", "cpu"]
    metrics = numbers_gan.main(options)
    assert metrics["score"]["fit"] > 0.95
    still = ["--lr", "1e-30", "--patience", "250", "--device", "cpu", "--out", "still"]
    numbers_gan.main(still)
    assert checkpoint_of("still")["epoch"] == 400  # asked at 100, 200, 300 and 400
    resume = ["--resume", "still/checkpoint.pt", "--device", "cpu"]
    numbers_gan.main(resume)
    assert checkpoint_of("still")["epoch"] == 400
    numbers_gan.main([*resume, "--patience", "400"])
    assert checkpoint_of("still")["epoch"] == 500


def test_numbers_gan_resume_equals_never_stopping():
    numbers_gan.main(["--epochs", "300", "--device", "cpu", "--out", "whole"])
    numbers_gan.main(["--max-steps", "130", "--device", "cpu", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--device", "cpu", "--epochs", "300"]
    numbers_gan.main(resume)
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    assert same(whole["parts"], parts["parts"]) and same(whole["rng"], parts["rng"])
    assert whole["stopper"] == parts["stopper"]
    assert whole["history"] == parts["history"] and whole["sums"] == parts["sums"]
    a, b = (Path(x, "samples/epoch_00300.png").read_bytes() for x in ("whole", "parts"))
    assert a == b


def test_numbers_gan_document_undoes_every_departure():
    args, _ = numbers_gan.parse(["--document"])
    default, _ = numbers_gan.parse([])
    for name, value in numbers_gan.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name)
    options = ["--document", "--epochs", "5", "--device", "cpu", "--out", "run"]
    numbers_gan.main(options)
    last = checkpoint_of("run")["parts"]["G"]
    saved, *_ = common.load_generator("run/generator.pt2", "numbers_gan")
    assert same(dict(saved.state_dict()), dict(last))


def test_numbers_gan_generates_and_refuses(capsys):
    options = ["--multiple", "3", "--epochs", "10", "--device", "cpu", "--out", "run"]
    numbers_gan.main(options)
    generator, checkpoint = "run/generator.pt2", "run/checkpoint.pt"
    capsys.readouterr()
    numbers_gan.main(["--generate", generator, "--out", "more", "--n", "7"])
    numbers = capsys.readouterr().out.splitlines()[0].split()
    assert len(numbers) == 7 and all(0 <= int(number) < 100 for number in numbers)
    assert Path("more/samples/generated.png").exists()
    for options, word in [
        ("--multiple 0", "--multiple"),
        ("--multiple 100", "--multiple"),
        ("--multiple 5 --remainder 5", "--remainder"),
        ("--remainder -1", "--remainder"),
        ("--epochs 0", "--epochs"),
        ("--out run", "not empty"),
        (f"--resume {generator}", "no checkpoint"),
        (f"--resume {checkpoint} --multiple 5", "--multiple"),
        (f"--generate {checkpoint}", "no generator"),
    ]:
        refused(capsys, word, numbers_gan.main, options.split())
    assert not Path("runs").exists()


def test_numbers_gan_stops_when_a_loss_is_nan(monkeypatch, capsys):
    numbers_gan.main(["--epochs", "10", "--device", "cpu", "--out", "run"])
    before = Path("run/checkpoint.pt").read_bytes()
    train_D_G = numbers_gan.train_D_G

    def broken(*args):
        data, loss_D, _ = train_D_G(*args)
        return data, loss_D, torch.tensor(float("nan"))

    monkeypatch.setattr(numbers_gan, "train_D_G", broken)
    resume = ["--resume", "run/checkpoint.pt", "--epochs", "20", "--device", "cpu"]
    capsys.readouterr()
    words = ("loss_G is nan", "learning rate")
    refused(capsys, words, numbers_gan.main, resume, status=1)
    assert Path("run/checkpoint.pt").read_bytes() == before


# --- mnist_gan.py --nets batchnorm ----------------------------------------------------


def test_batchnorm_nets_are_the_documents():
    G, D = mnist_gan.BatchNormGenerator(), mnist_gan.BatchNormDiscriminator()
    kinds = [type(layer).__name__ for layer in G.model]
    assert kinds == ["Linear", "LeakyReLU", "BatchNorm1d"] * 3 + ["Linear", "Tanh"]
    kinds = [type(layer).__name__ for layer in D.model]
    assert kinds == ["Linear", "LeakyReLU", "Linear", "LeakyReLU", "Linear", "Sigmoid"]
    sizes = [layer.out_features for layer in G.model if isinstance(layer, nn.Linear)]
    assert sizes == [256, 512, 1024, 784]
    sizes = [layer.out_features for layer in D.model if isinstance(layer, nn.Linear)]
    assert sizes == [512, 256, 1]
    slopes = [x.negative_slope for x in [*G.model, *D.model] if hasattr(x, "inplace")]
    assert slopes == [0.2] * 5
    args, _ = mnist_gan.parse(["--nets", "batchnorm"])
    assert (args.epochs, args.batch_size, args.lr, args.beta1) == (100, 64, 0.0002, 0.5)
    assert args.weight_decay == 0 and args.average > 0
    args, _ = mnist_gan.parse(["--nets", "batchnorm", "--document", "--epochs", "3"])
    assert args.average == 0 and args.epochs == 3 and not args.unit_range


def test_batchnorm_step_updates_both_nets_by_the_same_images():
    G, D, bce = mnist_gan.BatchNormGenerator(), Judge(), nn.BCELoss()
    seen = []
    D.register_forward_hook(lambda net, inputs, output: seen.append(inputs[0].detach()))
    still = torch.optim.SGD(D.parameters(), lr=0.0)
    optim_G = torch.optim.SGD(G.parameters(), lr=0.0)
    losses = mnist_gan.train_both(torch.ones(6, 784), D, G, bce, still, optim_G, 100)
    assert torch.equal(seen[0][6:], seen[1])  # G is judged by what D has just seen
    wanted = [(-math.log(0.9) - math.log(0.8)) / 2, -math.log(0.2)]
    assert [loss.item() for loss in losses] == pytest.approx(wanted, rel=1e-5)

    D = mnist_gan.BatchNormDiscriminator()
    nets = {"D": D, "G": G}
    for moving in nets:
        optims = {
            name: torch.optim.SGD(net.parameters(), lr=0.1 * (name == moving))
            for name, net in nets.items()
        }
        before = {
            name: [p.clone() for p in net.parameters()] for name, net in nets.items()
        }
        mnist_gan.train_both(
            torch.rand(6, 784), D, G, bce, optims["D"], optims["G"], 100
        )
        for name, net in nets.items():
            assert same(before[name], list(net.parameters())) == (name != moving)


def test_batchnorm_end_to_end_and_resumed(small_mnist):
    options = ["--nets", "batchnorm", "--batch-size", "128", "--device", "cpu"]
    mnist_gan.main([*options, "--epochs", "2", "--out", "whole"])
    mnist_gan.main([*options, "--epochs", "1", "--out", "parts"])
    mnist_gan.main(
        ["--resume", "parts/checkpoint.pt", "--epochs", "2", "--device", "cpu"]
    )
    whole, parts = checkpoint_of("whole"), checkpoint_of("parts")
    assert same(whole["parts"], parts["parts"]) and same(whole["rng"], parts["rng"])
    G = mnist_gan.BatchNormGenerator()
    G.load_state_dict(torch.load("whole/generator.pth", weights_only=True))
    D = mnist_gan.BatchNormDiscriminator()
    D.load_state_dict(torch.load("whole/discriminator.pth", weights_only=True))
    assert same(dict(D.state_dict()), dict(whole["parts"]["D"]))
    saved_G, *_ = common.load_generator("whole/generator.pt2", "mnist_gan")
    noise = torch.randn(5, 100)
    assert torch.allclose(saved_G(noise).flatten(1), G.eval()(noise), atol=1e-6)
    few, all_five = saved_G(noise[:2]), saved_G(noise)
    assert torch.allclose(all_five[:2], few, atol=1e-6)  # as in eval mode
    mnist_gan.main(["--generate", "whole/generator.pt2", "--out", "more"])
    assert Path("more/samples/generated.png").exists()


# --- mnist_cgan.py --------------------------------------------------------------------


def test_mnist_cgan_nets_are_the_documents():
    G, D = mnist_cgan.Generator(), mnist_cgan.Discriminator()
    for net in (G, D):
        assert net.label_emb.weight.shape == (10, 10)
    shapes = [tuple(p.shape) for p in G.model.parameters() if p.dim() == 2]
    assert shapes == [(256, 110), (512, 256), (1024, 512), (784, 1024)]
    shapes = [tuple(p.shape) for p in D.model.parameters() if p.dim() == 2]
    assert shapes == [(512, 794), (256, 512), (1, 256)]
    images = G(torch.randn(5, 100), torch.arange(5))
    assert images.shape == (5, 1, 28, 28) and images.abs().max() <= 1
    output = D(images, torch.arange(5))
    assert output.shape == (5, 1) and 0 < output.min() and output.max() < 1
    with pytest.raises(IndexError):
        G(torch.randn(1, 100), torch.tensor([10]))


def test_mnist_cgan_updates_touch_one_net_each():
    G, D, bce = mnist_cgan.Generator(), mnist_cgan.Discriminator(), nn.BCELoss()
    optimizer_G = torch.optim.Adam(G.parameters())
    optimizer_D = torch.optim.Adam(D.parameters())
    images, labels = torch.rand(6, 1, 28, 28), torch.arange(6)

    def weights():
        return [[p.clone() for p in net.parameters()] for net in (G, D)]

    before = weights()
    loss = mnist_cgan.train_discriminator(images, labels, D, G, bce, optimizer_D, 100)
    after = weights()
    assert loss.item() == pytest.approx(2 * math.log(2), rel=0.2)  # the plain sum
    assert same(before[0], after[0]) and not same(before[1], after[1])
    optimizer_D.zero_grad()
    before = after
    loss = mnist_cgan.train_generator(6, D, G, bce, optimizer_G, 100, "cpu")
    after = weights()
    assert loss.item() == pytest.approx(math.log(2), rel=0.2)
    assert same(before[1], after[1]) and not same(before[0], after[0])
    assert all(p.grad is None for p in D.parameters())


def test_mnist_cgan_end_to_end_and_resumed(small_mnist, capsys):
    options = ["--batch-size", "128", "--device", "cpu"]
    metrics = mnist_cgan.main([*options, "--epochs", "2"])
    out = capsys.readouterr().out
    run = Path("runs/mnist_cgan/1")
    assert "Epoch [2/2], Step [3/3], D Loss: " in out and str(run) in out
    pictures = {"epoch_0001.png", "epoch_0002.png"}
    assert files_of(run) == RESULTS | pictures | {"checkpoint.pt"}
    assert Image.open(run / "samples" / "epoch_0002.png").size == (302, 302)  # 10 x 10
    assert json.loads((run / "metrics.json").read_text()) == metrics
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)
    assert 0 <= metrics["score"]["nearest"] <= 1

    mnist_cgan.main([*options, "--max-steps", "4", "--out", "parts"])
    assert "epoch_0001_step_0001.png" in files_of("parts")
    resume = ["--resume", "parts/checkpoint.pt", "--epochs", "2", "--device", "cpu"]
    mnist_cgan.main(resume)
    whole, parts = checkpoint_of(run), checkpoint_of("parts")
    assert same(whole["parts"], parts["parts"]) and same(whole["rng"], parts["rng"])

    generator = f"{run}/generator.pt2"
    saved, inputs, _ = common.load_generator(generator, "mnist_cgan")
    assert [tuple(x.shape[1:]) for x in inputs] == [(100,), ()]
    G = mnist_cgan.Generator().eval()
    average = whole["parts"]["average_G"]
    G.load_state_dict({k[7:]: v for k, v in average.items() if k.startswith("module.")})
    noise, labels = torch.randn(7, 100), torch.tensor([0, 1, 2, 3, 9, 9, 5])
    assert torch.allclose(saved(noise, labels), G(noise, labels), atol=1e-6)
    for digits, n, size in (("7", "64", (242, 242)), ("2026", "1", (122, 32))):
        draw = ["--generate", generator, "--digits", digits, "--n", n, "--out", digits]
        mnist_cgan.main(draw)
        assert Image.open(Path(digits, "samples", "generated.png")).size == size


def test_mnist_cgan_draws_the_digits_that_are_asked_for(monkeypatch, small_mnist):
    asked = []

    def fake(path, script):
        def draw(noise, labels):
            asked.append(labels.tolist())
            return torch.zeros(len(noise), 1, 28, 28)

        return draw, (torch.zeros(2, 100), torch.zeros(2)), {}

    monkeypatch.setattr(common, "load_generator", fake)
    mnist_cgan.main(["--generate", "x", "--digits", "2026", "--n", "2", "--out", "a"])
    mnist_cgan.main(["--generate", "x", "--out", "b"])
    assert asked == [[2, 0, 2, 6, 2, 0, 2, 6], list(range(10))]


def test_mnist_cgan_score_sees_wrong_digits(mnist):
    images, labels = mnist[True]
    real = images.view(-1, 1, 28, 28) / 127.5 - 1
    by_digit = [real[labels == digit][:1000] for digit in range(10)]

    def right(noise, asked):
        return torch.stack([by_digit[d][n] for n, d in enumerate(asked.tolist())])

    def wrong(noise, asked):
        return right(noise, (asked + 1) % 10)

    good, bad = (mnist_cgan.score(G, 100, "cpu") for G in (right, wrong))
    assert good["nearest"] > 0.9 and min(good["nearest_of_digit"]) > 0.8
    assert bad["nearest"] < 0.05
    assert max(good["frechet_pixels"], bad["frechet_pixels"]) < 4  # both are digits


def test_mnist_cgan_document_and_bad_input(small_mnist, capsys):
    args, _ = mnist_cgan.parse(["--document"])
    default, _ = mnist_cgan.parse(["--bfloat16"])  # not the default on every processor
    for name, value in mnist_cgan.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name)
    options = ["--batch-size", "128", "--device", "cpu", "--epochs", "1"]
    mnist_cgan.main([*options, "--out", "run"])
    generator, checkpoint = "run/generator.pt2", "run/checkpoint.pt"
    capsys.readouterr()
    for options, word in [
        ("--batch-size 1", "batch norm"),
        (f"--generate {generator} --digits x", "--digits"),
        (f"--generate {generator} --digits -1", "--digits"),
        (f"--generate {generator} --digits 7.5", "--digits"),
        (f"--generate {generator} --noise-dim 50", "--noise-dim"),
        (f"--generate {checkpoint}", "no generator"),
        (f"--resume {generator}", "no checkpoint"),
        (f"--resume {checkpoint} --lr 0.5", "--lr"),
        ("--batch-size 70000", "70000"),
        ("--epochs 0", "--epochs"),
        ("--out run", "not empty"),
    ]:
        refused(capsys, word, mnist_cgan.main, options.split())
    refused(capsys, "mnist_cgan.py", mnist_gan.main, ["--generate", generator])
    wild = ["--lr", "1e30", "--batch-size", "128", "--device", "cpu", "--out", "wild"]
    refused(capsys, "learning rate", mnist_cgan.main, wild, status=1)
    assert not Path("runs").exists()


# --- aae_mnist.py ---------------------------------------------------------------------


def test_aae_mnist_nets_are_the_documents():
    encoder, decoder = aae_mnist.Encoder(), aae_mnist.Decoder()
    D = aae_mnist.Discriminator()
    shapes = [
        [tuple(p.shape) for p in net.parameters() if p.dim() == 2]
        for net in (encoder, decoder, D)
    ]
    assert shapes[0] == [(512, 1024), (512, 512), (10, 512), (10, 512)]
    assert shapes[1] == [(512, 10), (512, 512), (1024, 512)]
    assert shapes[2] == [(512, 10), (256, 512), (1, 256)]
    images = torch.rand(5, 1, 32, 32)
    codes = encoder(images)
    assert codes.shape == (5, 10) and decoder(codes).shape == images.shape
    assert D(codes).shape == (5, 1)


def test_aae_mnist_reparameterization():
    torch.manual_seed(0)
    mu = torch.full((50_000, 1), 3.0, requires_grad=True)
    logvar = torch.full((50_000, 1), math.log(0.25), requires_grad=True)
    z = aae_mnist.reparameterization(mu, logvar)
    assert z.mean().item() == pytest.approx(3, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, rel=0.02)
    z.sum().backward()
    assert mu.grad.unique().tolist() == [1] and logvar.grad.abs().max() > 0


def test_aae_mnist_images_are_resized_once(small_mnist):
    images, labels = aae_mnist.load_images(32, "cpu")
    assert images.shape == (300, 1, 32, 32) and len(labels) == 300
    assert images.min() == -1 and images.max() == 1
    assert aae_mnist.load_images(16, "cpu")[0].shape == (300, 1, 16, 16)


def test_aae_mnist_updates_and_losses():
    encoder, decoder = aae_mnist.Encoder(), aae_mnist.Decoder()
    D = aae_mnist.Discriminator()
    nets = (encoder, decoder, D)
    both = [*encoder.parameters(), *decoder.parameters()]
    optimizer_G = torch.optim.Adam(both)
    optimizer_D = torch.optim.Adam(D.parameters())
    images = torch.rand(6, 1, 32, 32) * 2 - 1

    def weights():
        return [[p.clone() for p in net.parameters()] for net in nets]

    before = weights()
    loss, codes = aae_mnist.train_generator(images, encoder, decoder, D, optimizer_G)
    after = weights()
    assert not same(before[0], after[0]) and not same(before[1], after[1])
    assert same(before[2], after[2]) and all(p.grad is None for p in D.parameters())
    assert codes.shape == (6, 10) and not codes.requires_grad
    pixels = images.abs().mean().item()  # of an untrained decoder, which draws grey
    assert loss.item() == pytest.approx(0.999 * pixels + 0.001 * math.log(2), rel=0.3)

    nets_and_Adam = (encoder, decoder, D, optimizer_G)
    loss, _ = aae_mnist.train_generator(images, *nets_and_Adam, adversarial=1.0)
    assert loss.item() == pytest.approx(math.log(2), rel=0.2)  # no pixels in it
    before = weights()
    loss = aae_mnist.train_discriminator(codes, D, optimizer_D)
    after = weights()
    assert same(before[:2], after[:2]) and not same(before[2], after[2])
    assert loss.item() == pytest.approx(math.log(2), rel=0.2)  # half the sum


def test_aae_mnist_samples_leave_batch_norm_alone():
    decoder = aae_mnist.Decoder()
    before = copy.deepcopy(decoder.state_dict())
    aae_mnist.sample_image(decoder, torch.randn(100, 10), "a.png")
    assert same(before, decoder.state_dict()) and decoder.training
    assert Image.open("a.png").size == (342, 342)


def test_aae_mnist_score_knows_a_perfect_one(mnist):
    images, _ = aae_mnist.load_images(32, "cpu", train=False)
    torch.manual_seed(0)
    codes = torch.randn(10_000, 10)

    class Perfect(nn.Module):
        def forward(self, x):
            return images if x.shape[1] == 10 else codes

    good = aae_mnist.score(Perfect(), Perfect(), 32, "cpu")
    assert good["reconstruction_error"] == 0 and good["wasserstein_2"] < 0.1
    codes += 3
    assert aae_mnist.score(Perfect(), Perfect(), 32, "cpu")["wasserstein_2"] > 9


def test_aae_mnist_end_to_end_and_resumed(small_mnist, capsys):
    options = ["--batch_size", "128", "--sample_interval", "2", "--device", "cpu"]
    metrics = aae_mnist.main([*options, "--n_epochs", "2"])
    out = capsys.readouterr().out
    run = Path("runs/aae_mnist/1")
    assert "[Epoch 2/2] [Batch 3/3] [D loss: " in out and str(run) in out
    pictures = {f"batch_{n:07d}.png" for n in (2, 4, 6)}
    pictures |= {"reconstructions.png", "walk.png"}
    assert files_of(run) == RESULTS | pictures | {"checkpoint.pt"}
    assert Image.open(run / "reconstructions.png").size == (342, 342)  # 5 x 2 rows
    assert Image.open(run / "walk.png").size == (342, 308)  # 9 walks of 10 steps
    assert json.loads((run / "metrics.json").read_text()) == metrics
    losses = metrics["losses"]["loss_D"] + metrics["losses"]["loss_G"]
    assert len(losses) == 4 and all(0 < loss < 20 for loss in losses)

    aae_mnist.main([*options, "--epochs", "1", "--out", "parts"])
    resume = ["--resume", "parts/checkpoint.pt", "--epochs", "2", "--device", "cpu"]
    aae_mnist.main(resume)
    whole, parts = checkpoint_of(run), checkpoint_of("parts")
    assert same(whole["parts"], parts["parts"]) and same(whole["rng"], parts["rng"])

    generator, checkpoint = f"{run}/generator.pt2", f"{run}/checkpoint.pt"
    saved, (z,), _ = common.load_generator(generator, "aae_mnist")
    decoder = aae_mnist.Decoder().eval()
    decoder.load_state_dict(whole["parts"]["decoder"])
    z = torch.randn(7, 10)
    assert torch.allclose(saved(z), decoder(z), atol=1e-6)
    aae_mnist.main(["--generate", generator, "--n", "9", "--out", "drawn"])
    assert Image.open("drawn/samples/generated.png").size == (104, 104)
    again = ["--reconstruct", checkpoint, "--n", "13", "--seed", "3", "--out", "again"]
    aae_mnist.main(again)
    picture = Image.open("again/samples/reconstructions.png")
    assert picture.size == (342, 138)  # 10 x 4
    rows = [picture.crop((240, y, 342, y + 34)).getextrema()[0][1] for y in (68, 102)]
    assert rows == [0, 0]  # the rest of the last two rows is blank


def test_aae_mnist_bad_input(small_mnist, capsys):
    options = ["--batch-size", "128", "--latent-dim", "4", "--device", "cpu"]
    aae_mnist.main([*options, "--epochs", "1", "--out", "run"])
    generator, checkpoint = "run/generator.pt2", "run/checkpoint.pt"
    aae_mnist.main(["--generate", generator, "--out", "fits"])
    capsys.readouterr()
    for options, word in [
        (f"--generate {generator} --latent-dim 5", "--latent-dim 4"),
        (f"--generate {checkpoint}", "no generator"),
        (f"--reconstruct {generator}", "no checkpoint"),
        ("--reconstruct nothing.pt", "No such file"),
        (f"--resume {checkpoint} --latent-dim 10", "--latent-dim"),
        (f"--resume {generator}", "no checkpoint"),
        ("--latent-dim 0", "--latent-dim"),
        ("--img-size 0", "--img-size"),
        ("--channels 3", "--channels"),
        ("--batch-size 1", "batch norm"),
        (f"--reconstruct {checkpoint} --latent-dim 5", "--latent-dim 4"),
        (f"--reconstruct {checkpoint} --generate {generator}", "--reconstruct"),
        ("--batch-size 70000", "70000"),
        ("--out run", "not empty"),
    ]:
        refused(capsys, word, aae_mnist.main, options.split())
    wild = ["--lr", "1e30", "--batch-size", "128", "--device", "cpu", "--out", "wild"]
    refused(capsys, "learning rate", aae_mnist.main, wild, status=1)
    assert not Path("runs").exists()


# --- README.md and copy and paste -----------------------------------------------------


def test_the_map_names_what_there_is():
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    _, _, the_map = readme.partition("## From the documents to the code")
    script, names = None, []
    for line in the_map.partition("\n## ")[0].splitlines():
        if line.startswith("**"):
            (name,) = re.findall(r"`(\w+)\.py`", line)
            script = importlib.import_module(name)
        elif line.startswith("| ") and "| section |" not in line:
            code = re.findall(r"`(\w+)`", line.split("|")[3])
            assert code, line
            names += [(script, name) for name in code]
    missing = [(script.__name__, x) for script, x in names if not hasattr(script, x)]
    assert not missing and len(names) > 60
    scripts = {script for script, _ in names}
    assert len(scripts) == 6


def pasted(script):
    """What a notebook has after the script's imports and definitions were pasted.

    Not common.py, nor main and what belongs to the command line.
    """
    tree = ast.parse(Path(script.__file__).read_text(encoding="utf-8"))
    kept = []
    for node in tree.body:
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        if imports and any(alias.name == "common" for alias in node.names):
            continue
        if isinstance(node, ast.FunctionDef) and node.name in ("main", "parse"):
            continue
        if isinstance(node, ast.If):
            continue
        kept.append(node)
    Path("cell.py").write_text(ast.unparse(ast.Module(kept, [])), encoding="utf-8")
    return types.SimpleNamespace(**runpy.run_path("cell.py"))


def optimizers(*nets):
    return [torch.optim.Adam(net.parameters()) for net in nets]


def test_pasted_code_works_without_common():
    bce, Z = nn.BCELoss(), torch.randn(8, 2)

    one = pasted(linear_gan)
    D, G = one.Discriminator(), one.Generator()
    loss, trainer_D, trainer_G = one.init_params(D, G, 0.05, 0.005)
    X = one.create_data()[:8]
    assert one.update_D(X, Z, D, G, loss, trainer_D).isfinite()
    assert one.update_G(Z, D, G, loss, trainer_G).isfinite()

    two = pasted(mnist_gan)
    images = torch.rand(8, 784)
    D, G = two.Discriminator(), two.Generator()
    optim_D, optim_G = optimizers(D, G)
    assert two.train_discriminator(images, D, G, bce, optim_D, 100).isfinite()
    assert two.train_generator(D, G, bce, optim_G, 8, 100, "cpu").isfinite()
    D, G = two.BatchNormDiscriminator(), two.BatchNormGenerator()
    optim_D, optim_G = optimizers(D, G)
    losses = two.train_both(images, D, G, bce, optim_D, optim_G, 100)
    assert all(loss.isfinite() for loss in losses)

    three = pasted(mnist_cgan)
    images, labels = torch.rand(8, 1, 28, 28), torch.arange(8)
    D, G = three.Discriminator(), three.Generator()
    optim_D, optim_G = optimizers(D, G)
    step = three.train_discriminator(images, labels, D, G, bce, optim_D, 100)
    assert step.isfinite()
    assert three.train_generator(8, D, G, bce, optim_G, 100, "cpu").isfinite()

    four = pasted(curve_gan)
    data = four.create_data("sine")
    stats = data.mean(0), data.std(0)
    D, G = four.Discriminator(*stats), four.Generator(*stats)
    optim_D, optim_G = optimizers(D, G)
    assert four.train_D_on_real(data[:8], D, bce, optim_D).isfinite()
    assert four.train_D_on_fake(8, D, G, bce, optim_D).isfinite()
    loss, points = four.train_G(8, D, G, bce, optim_G)
    assert loss.isfinite() and four.performance(points, "sine").isfinite()
    assert four.gap(**four.quality(points, "sine", 0.5)) > 1
    assert not four.EarlyStop().stop(1.0)

    five = pasted(numbers_gan)
    D, G = five.Discriminator(), five.Generator()
    data, *losses = five.train_D_G(five.gen_batch(), D, G, bce, *optimizers(D, G))
    assert all(loss.isfinite() for loss in losses)
    assert five.distance(data) >= 0 and 0 <= five.variation(data) <= 1

    six = pasted(aae_mnist)
    encoder, decoder, D = six.Encoder(), six.Decoder(), six.Discriminator()
    optim_G, optim_D = optimizers(nn.ModuleList([encoder, decoder]), D)
    imgs = torch.rand(8, 1, 32, 32)
    loss, codes = six.train_generator(imgs, encoder, decoder, D, optim_G)
    assert loss.isfinite() and six.train_discriminator(codes, D, optim_D).isfinite()


def test_three_scripts_do_not_wait_for_torchvision():
    code = "import sys, curve_gan, linear_gan, numbers_gan; "
    code += (
        "sys.exit('torchvision' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=HERE, check=False).returncode
        == 0
    )
