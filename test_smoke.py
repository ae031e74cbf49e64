"""Runs every script for a few steps and looks at what came out."""

import argparse
import ast
import contextlib
import copy
import errno
import importlib
import io
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import aae_mnist
import common
import curve_gan
import linear_gan
import mnist_bn_gan
import mnist_cgan
import mnist_gan
import numbers_gan

HERE = Path(__file__).resolve().parent
LOAD_MNIST, RUN_INIT = common.load_mnist, common.Run.__init__
F = nn.functional

# Options that make an epoch short, the shapes of the generator's inputs and of what it
# makes, and what D and G are made with.
SHORT, IMAGE = ["--batch-size", "128"], (1, 28, 28)
SCALE = (torch.zeros(2), torch.ones(2))
SCRIPTS = {
    linear_gan: ([], [(2,)], (2,), (), ()),
    curve_gan: ([], [(2,)], (2,), (*SCALE, 0.0, 0.2), (*SCALE, 0.2)),
    numbers_gan: ([], [(100,)], (100,), (), ()),
    mnist_gan: ([], [(100,)], IMAGE, (784, 256), (100, 256, 784)),
    mnist_bn_gan: (SHORT, [(100,)], IMAGE, (784,), (100, 784)),
    mnist_cgan: (SHORT, [(100,), ()], IMAGE, (*IMAGE, 10), (100, 10, *IMAGE)),
    aae_mnist: (SHORT, [(10,)], (1, 32, 32), (10,), (10, 32)),
}
FILES = {"samples", "losses.png", "training.gif", "metrics.json", "generator.pt2"}
MORE_FILES = {
    curve_gan: {"data.png"},
    mnist_bn_gan: {"generator.pth", "discriminator.pth"},
    aae_mnist: {"reconstructions.png", "walk.png"},
}
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda x: x.__name__)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, so that runs/ starts empty."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def mnist():
    """The real thing, read once. The scripts get 300: steps of 128, 128 and 44."""
    real = {train: LOAD_MNIST(train) for train in (True, False)}
    common.load_mnist = lambda train=True: tuple(x[:300] for x in real[train])
    return real


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """whole(script): its one run of three epochs: (folder, metrics, output, start)."""
    done = {}

    def run(script):
        if script not in done:
            start, folder = {}, tmp_path_factory.mktemp("whole") / "run"

            def recorded(self, args, **parts):
                RUN_INIT(self, args, **parts)
                for name, part in parts.items():
                    start[name] = copy.deepcopy(part.state_dict())
                    if any("running_mean" in x for x in start[name]):  # of batch norm
                        assert part.training != name.startswith("average")

            options = [*SCRIPTS[script][0], "--epochs", "3", "--out", str(folder)]
            out = io.StringIO()
            with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
                patch.setattr(common.Run, "__init__", recorded)
                metrics = script.main([*options, "--device", "cpu"])
            done[script] = folder, metrics, out.getvalue(), start
        return done[script]

    return run


def refused(capsys, words, call, *args, status=2):
    """Call what has to end with this status and one line on stderr with these words."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*args)
    assert stop.value.code == status
    lines = capsys.readouterr().err.strip().splitlines()
    (message,) = [line for line in lines if not line.startswith("usage: ")]
    assert "error: " in message
    for word in [words] if isinstance(words, str) else words:
        assert word in message


def same(a, b):
    """Whether nested dicts and lists of tensors and values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def checkpoint_of(run):
    return torch.load(Path(run, "checkpoint.pt"), weights_only=True)


def contents(run):
    """{name: bytes} of a run's files, but not TensorBoard's."""
    files = [x for x in Path(run).rglob("*.*") if "events" not in x.name]
    return {x.relative_to(run): x.read_bytes() for x in files}


@each_script
def test_a_run_leaves_what_it_should(script, whole):
    run, metrics, out, start = whole(script)
    assert out.startswith(f"Writing to {run}\n") and f"see {run}" in out
    more = MORE_FILES.get(script, set()) | {"checkpoint.pt"}
    names = {path.name for path in run.iterdir() if "events" not in path.name}
    assert names == FILES | more
    pictures = sorted((run / "samples").iterdir())
    assert pictures and all(Image.open(path).size > (200, 200) for path in pictures)
    assert f"epoch_{3:05d}_step_" in pictures[-1].name
    frames = {path.read_bytes() for path in pictures}  # the GIF keeps one of the same
    assert Image.open(run / "training.gif").n_frames == len(frames)
    assert (run / "metrics.json").read_text() == json.dumps(metrics, indent=2)
    for name in ("loss_D", "loss_G"):
        values = metrics["history"][name]
        assert {*values} >= {1, 3} and all(0 < loss < 20 for loss in values.values())
    events = EventAccumulator(str(run)).Reload()
    assert events.Scalars("loss_G")[-1].value == pytest.approx(values[3], rel=1e-5)

    parts = checkpoint_of(run)["parts"]
    nets = [x for x in parts if not x.startswith(("optim", "trainer", "stopper"))]
    assert {*nets} >= {"D", "decoder" if script is aae_mnist else "G"}
    for name in nets:  # and their averages
        for key, x in parts[name].items():
            assert x.isfinite().all()
            assert key.endswith((".mean", ".std")) or not x.equal(start[name][key])


@each_script
def test_stopped_and_resumed_is_as_in_one_go(script, whole, monkeypatch, capsys):
    run, metrics, *_ = whole(script)
    log = common.Run.log if script is not linear_gan else common.Run.measure

    def interrupted(self, **values):
        if self.epoch == 2:
            self.writer.add_scalar("loss_G", 0.5, self.step)  # to be forgotten
            raise KeyboardInterrupt
        log(self, **values)

    options = [*SCRIPTS[script][0], "--epochs", "3", "--device", "cpu", "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(common.Run, log.__name__, interrupted)
        refused(capsys, "--resume run/checkpoint.pt", script.main, options, status=130)
    before = contents("run")
    (events,) = Path("run").glob("events*")  # TensorBoard sorts them by name, in which
    events.rename("run/events.out.tfevents.1")  # it has the second: 1 is before now
    script.main(["--resume", "run/checkpoint.pt", "--device", "cpu"])
    a, b = checkpoint_of(run), checkpoint_of("run")
    assert a["run"].pop("seconds") and b["run"].pop("seconds")
    assert same(a, b)
    ours, theirs = contents(run), contents("run")
    assert ours.keys() == theirs.keys()
    for files in (before, ours):  # none overwritten, none different
        assert all(x == theirs[k] for k, x in files.items() if k.suffix == ".png")
    assert json.loads(theirs[Path("metrics.json")])["score"] == metrics["score"]
    events = [EventAccumulator(str(x)).Reload() for x in (run, "run")]
    assert same(*[[x.step for x in part.Scalars("loss_G")] for part in events])


@each_script
def test_document_undoes_every_departure_and_max_steps_stops(script):
    args, default = script.parse(["--document"]), script.parse([])
    for name, value in script.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name), name
    assert not set(vars(args)) - set(vars(default))
    name = "weight_decay" if script is linear_gan else "average"  # what is given wins
    given = ["--document", f"--{name.replace('_', '-')}", "0.5"]
    assert getattr(script.parse(given), name) == 0.5

    options = [*SCRIPTS[script][0], "--device", "cpu", "--document", "--out", "run"]
    metrics = script.main([*options, "--max-steps", "4"])
    assert Path("run/generator.pt2").exists() and metrics["arguments"]["document"]
    assert max(x.name[-8:] for x in Path("run/samples").iterdir()) == "0004.png"
    if script not in (linear_gan, curve_gan, numbers_gan):
        assert checkpoint_of("run")["run"]["epoch"] == 1  # of epoch 2, there was a step


@each_script
def test_a_saved_generator_is_used_again(script, whole):
    run, *_ = whole(script)
    before, (_, shapes, result, *_) = contents(run), SCRIPTS[script]
    G = torch.export.load(run / "generator.pt2").module()

    def inputs(n):
        torch.manual_seed(n)
        return [torch.randn(n, *x) if x else torch.arange(n) % 10 for x in shapes]

    assert all(G(*inputs(n)).shape == (n, *result) for n in (1, 2, 9))
    few = G(*(x[:3] for x in inputs(9)))  # as in eval mode: alone or together
    assert torch.allclose(G(*inputs(9))[:3], few, atol=1e-5)
    state = common.load(run / "generator.pt2", script.__name__, "state")["state"]
    assert same({**G.state_dict()}, {**state})
    saved = {curve_gan: "best_G", linear_gan: "G"}.get(script)
    parts = checkpoint_of(run)["parts"]
    last = parts[saved or ("average_D" if script is aae_mnist else "average_G")]
    kept = {k.removeprefix("module."): v for k, v in last.items() if k != "n_averaged"}
    assert same([*kept.values()], [*state.values()])

    pictures = []
    for seed, out in (("3", "a"), ("3", "b"), ("4", "c")):
        options = ["--generate", str(run / "generator.pt2"), "--seed", seed, "--n", "9"]
        script.main([*options, "--out", out])
        pictures.append(Path(out, "samples", "generated.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    script.main(options)
    assert Path("runs", script.__name__, "1").exists() and contents(run) == before


@each_script
def test_a_loss_that_is_nan_stops_the_run(script, whole, monkeypatch, capsys):
    run, *_ = whole(script)
    shutil.copytree(run, "run")
    before = Path("run/checkpoint.pt").read_bytes()
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        loss = getattr(F, name)
        monkeypatch.setattr(F, name, lambda *x, f=loss, **y: f(*x, **y) * math.nan)
    resume = ["--resume", "run/checkpoint.pt", "--epochs", "6", "--device", "cpu"]
    refused(capsys, "lower learning rate", script.main, resume, status=1)
    assert Path("run/checkpoint.pt").read_bytes() == before


@each_script
def test_bad_input_is_refused_in_one_line(script, whole, capsys):
    run, *_ = whole(script)
    before = contents(run)
    checkpoint, generator = run / "checkpoint.pt", run / "generator.pt2"
    Path("cut.pt").write_bytes(checkpoint.read_bytes()[:5000])
    Path("cut.pt2").write_bytes(generator.read_bytes()[:5000])
    shutil.copy(checkpoint, "renamed.pt")
    Path("old").mkdir()
    torch.save(checkpoint_of(run) | {"parts": {}}, "old/checkpoint.pt")
    other = linear_gan if script is mnist_gan else mnist_gan
    theirs, _, _, _ = whole(other)
    lr = "--lr-D" if hasattr(script.parse([]), "lr_D") else "--lr"
    beta = "--b1" if script is aae_mnist else "--beta1"
    resume, generate = f"--resume {checkpoint}", f"--generate {generator}"
    for word, *bad in [
        ("--batch-size", "--batch-size 0", "--batch-size 70000"),
        ("--epochs", "--epochs -1", "--epochs 0", f"{resume} --epochs 2"),
        (lr, f"{lr} 0", f"{lr} nan", f"{lr} inf", f"{lr} x", f"{resume} {lr} 0.5"),
        (beta, f"{beta} 1", f"{beta} nan", f"{generate} {beta} 0.25"),
        ("--seed", "--seed -1", f"{resume} --seed 5"),
        ("--max-steps", "--max-steps 0", "--max-steps 1.5"),
        ("--device", "--device tpu"),
        ("--sead", "--sead 1"),
        ("--n", f"{generate} --n 0"),
        ("--document", f"{resume} --document"),
        ("--resume", f"{resume} --out new", f"{resume} {generate}"),
        ("not empty", f"--out {run}", f"{generate} --out {run}"),
        ("cannot write", "--out cut.pt", "--out cut.pt/below"),
        ("no file", "--resume no.pt", "--resume old", "--generate no.pt2"),
        ("no checkpoint.pt", "--resume cut.pt", f"--resume {generator}"),
        ("no generator.pt2", "--generate cut.pt2", f"--generate {checkpoint}"),
        ("named checkpoint.pt", "--resume renamed.pt"),
        ("does not fit", "--resume old/checkpoint.pt"),
        (f"{other.__name__}.py", f"--resume {theirs / 'checkpoint.pt'}"),
        (f"{other.__name__}.py", f"--generate {theirs / 'generator.pt2'}"),
    ]:
        for options in bad:
            refused(capsys, word, script.main, options.split())
    assert not Path("runs").exists() and not Path("new").exists()
    assert contents(run) == before


@each_script
def test_help_fits_on_a_screen_and_the_lesson_is_in_sight(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and len(script.__doc__.splitlines()) <= 20
    tree = ast.parse(Path(script.__file__).read_text(encoding="utf-8"))
    main = next(x for x in tree.body if getattr(x, "name", "") == "main")
    assert main.end_lineno - main.lineno < 52
    books = (None, "main", "parse", "generate", "score", "load_images")
    lesson = [x for x in tree.body if getattr(x, "name", None) not in books]
    names = {getattr(x, "id", None) for part in lesson for x in ast.walk(part)}
    assert len(lesson) >= 3 and "common" not in names  # nets and updates can be copied


@each_script
def test_updates_touch_one_net_each(script):
    nets = nets_of(script)
    for moving in nets:
        before = [[p.clone() for p in net.parameters()] for net in nets]
        rates = [0.1 if net is moving else 0.0 for net in nets]
        optims = [
            torch.optim.SGD(net.parameters(), lr=x) for net, x in zip(nets, rates)
        ]
        assert all(loss.isfinite() for loss in step_of(script, *nets, *optims))
        for net, weights in zip(nets, before):
            assert same([*net.parameters()], weights) == (net is not moving)


@each_script
def test_losses_are_the_documents(script, monkeypatch):
    D, G = nets_of(script)
    last = [layer for layer in D.modules() if isinstance(layer, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, math.log(0.9 / 0.1))  # D says 0.9 to everything
    monkeypatch.setattr(aae_mnist, "pixelwise_loss", lambda *_: torch.tensor(2.0))
    still = [torch.optim.SGD(net.parameters(), lr=0.0) for net in (D, G)]
    loss_D, loss_G = step_of(script, D, G, *still)
    real, fake = -math.log(0.9), -math.log(0.1)  # the losses of labels 1 and 0
    sums = {linear_gan: (4, 8), mnist_bn_gan: (0.5, 1), aae_mnist: (0.5, 0.25)}
    factor_D, factor_G = sums.get(script, (1, 1))
    pixels = 0.75 * 2 if script is aae_mnist else 0
    assert loss_D.item() == pytest.approx(factor_D * (real + fake), rel=1e-4)
    assert loss_G.item() == pytest.approx(factor_G * real + pixels, rel=1e-4)


def nets_of(script):
    """A script's D and G; of aae_mnist.py, encoder and decoder are G."""
    D, G = SCRIPTS[script][3:]
    if script is aae_mnist:
        both = nn.ModuleList([script.Encoder(*G), script.Decoder(*G)])
        return script.Discriminator(*D), both
    return script.Discriminator(*D), script.Generator(*G)


def step_of(script, D, G, optim_D, optim_G):
    """Update D and G on eight examples. Returns both losses."""
    bce, images = nn.BCELoss(), torch.rand(8, 1, 28, 28)
    if script is linear_gan:
        X, Z, loss = torch.randn(8, 2), torch.randn(8, 2), nn.BCEWithLogitsLoss
        loss_D = script.update_D(X, Z, D, G, loss(reduction="sum"), optim_D)
        return loss_D, script.update_G(Z, D, G, loss(reduction="sum"), optim_G)
    if script is curve_gan:
        real = script.create_data("exponential", 8)
        loss_D = script.train_D_on_real(real, D, bce, optim_D, 0.1)
        loss_D = loss_D + script.train_D_on_fake(8, D, G, bce, optim_D)
        loss_G, points = script.train_G(8, D, G, bce, optim_G)
        assert points.shape == (8, 2) and not points.requires_grad
        return loss_D, loss_G
    if script is numbers_gan:
        batch = script.gen_batch(5, 0, 8)
        data, *losses = script.train_D_G(batch, D, G, bce, optim_D, optim_G)
        assert data.shape == (8, 100) and data.min() >= 0 and not data.requires_grad
        return losses
    if script is mnist_gan:
        real = images.flatten(1)
        loss_D = script.train_discriminator(real, D, G, bce, optim_D, 100)
        optim_D.zero_grad()
        loss_G = script.train_generator(D, G, bce, optim_G, 8, 100, "cpu")
        assert all(p.grad is None for p in D.parameters())  # none were computed
        return loss_D, loss_G
    if script is aae_mnist:
        images = torch.rand(8, 1, 32, 32)
        return script.train_batch(images, *G, D, optim_G, optim_D, 0.25)
    labels = [torch.arange(8)] if script is mnist_cgan else []
    sizes = (100, 10) if script is mnist_cgan else 100
    return script.train_batch(images, *labels, G, D, bce, optim_G, optim_D, sizes)


@each_script
def test_nets_are_the_documents(script):
    """Layers in their order: input and output of a linear one, slope of a leaky one."""
    names = {
        nn.Linear: lambda x: f"{x.in_features}-{x.out_features}",
        nn.LeakyReLU: lambda x: f"L{x.negative_slope}",
        nn.Embedding: lambda x: f"E{x.num_embeddings}-{x.embedding_dim}",
        nn.BatchNorm1d: lambda x: f"B{x.num_features}",
    }
    names |= {x: lambda x: type(x).__name__[0] for x in (nn.ReLU, nn.Tanh, nn.Sigmoid)}
    layers = [x for net in nets_of(script) for x in net.modules() if type(x) in names]
    digits = "256 L0.2 B256 256-512 L0.2 B512 512-1024 L0.2 B1024 1024-784 T"
    coder, drawer = "512-512 B512 L0.2", "2-16 L0.2 16-32 L0.2 32-2"
    wanted = {
        linear_gan: "2-5 T 5-3 T 3-1 2-2",
        curve_gan: f"2-256 L0.2 256-128 L0.2 128-64 L0.2 64-1 S {drawer}",
        numbers_gan: "100-1 S 100-100 R",
        mnist_gan: "784-256 L0.1 256-256 L0.1 256-1 S 100-256 R 256-256 R 256-784 T",
        mnist_bn_gan: f"784-512 L0.2 512-256 L0.2 256-1 S 100-{digits}",
        mnist_cgan: f"E10-10 794-512 L0.2 512-256 L0.2 256-1 S E10-10 110-{digits}",
        aae_mnist: f"10-512 L0.2 512-256 L0.2 256-1 S 1024-512 L0.2 {coder} "
        f"512-10 512-10 10-512 L0.2 {coder} 512-1024 T",
    }
    assert " ".join(names[type(x)](x) for x in layers) == wanted[script]


def test_linear_gan_data_first_weights_and_score():
    torch.manual_seed(0)
    data = torch.cat([linear_gan.create_data() for _ in range(100)])
    assert data.shape == (100_000, 2)
    assert data.mean(0).tolist() == pytest.approx([1, 2], abs=0.05)
    covariance = [1.01, 1.95, 1.95, 4.25]  # A^T A
    assert torch.cov(data.T).flatten().tolist() == pytest.approx(covariance, abs=0.1)
    nets = linear_gan.Discriminator(), linear_gan.Generator()
    linear_gan.init_params(*nets, 0.05, 0.005, 0.5, 0.0)
    weights = torch.cat([p.flatten() for net in nets for p in net.parameters()])
    assert 0.01 < weights.std() < 0.03
    with torch.no_grad():  # A perfect generator, then one that learns.
        nets[1][0].weight.copy_(torch.tensor([[1, -0.1], [2, 0.5]]))
        nets[1][0].bias.copy_(torch.tensor([1.0, 2.0]))
    assert linear_gan.score(nets[1], data)["wasserstein_2"] < 0.05
    metrics = linear_gan.main(["--epochs", "15", "--device", "cpu"])
    distances = metrics["history"]["wasserstein_2"]
    assert distances[1] > 2 and distances[15] < 0.8


def test_curve_gan_saves_the_best_generator_and_stops(monkeypatch):
    for script in (curve_gan, numbers_gan):
        stopper = script.EarlyStop(3)
        said = [stopper.stop(gdif) for gdif in (5, 4, 6, 3, 3, 4, 2, 2, 9, 9)]
        assert said == [False] * 9 + [True]  # an equal gdif is no improvement
        assert stopper.min_gdif == 2 and stopper.steps == 3
        other = script.EarlyStop(5)
        other.load_state_dict(stopper.state_dict())
        assert (other.steps, other.min_gdif, other.patience) == (3, 2, 5)
    assert [x.DOCUMENT["patience"] for x in (curve_gan, numbers_gan)] == [1000, 800]
    scores = iter((3.0, 1.0, 2.0, 4.0, 5.0))
    with monkeypatch.context() as patch:
        patch.setattr(curve_gan, "gap", lambda *_, **__: next(scores))
        curve_gan.main(["--patience", "3", "--device", "cpu", "--out", "run"])
    parts = checkpoint_of("run")["parts"]
    assert parts["stopper"] == {"steps": 3, "min_gdif": 1.0}
    curve_gan.main(["--epochs", "2", "--device", "cpu", "--out", "two"])
    second = checkpoint_of("two")["parts"]["average_G"]
    assert same(parts["best_G"], {k: second[f"module.{k}"] for k in parts["best_G"]})
    resume = ["--resume", "run/checkpoint.pt", "--device", "cpu"]
    for more, epochs in (["--seed", "0"], 5), (["--patience", "4", "--epochs", "6"], 6):
        curve_gan.main([*resume, *more])
        assert checkpoint_of("run")["run"]["epoch"] == epochs  # 5: it had ended


@pytest.mark.parametrize("curve", list(curve_gan.CURVES))
def test_curve_gan_data_and_quality(curve):
    torch.manual_seed(0)
    data, good = curve_gan.create_data(curve), curve_gan.create_data(curve, 4096)
    f, _, (low, high), (bottom, top) = curve_gan.CURVES[curve]
    assert data.shape == (2048, 2) and curve_gan.performance(data, curve) < 1e-9
    assert low <= data[:, 0].min() < low + 0.1 and high - 0.1 < data[:, 0].max() <= high
    assert bottom <= data[:, 1].min() and data[:, 1].max() <= top

    def gap(points):
        return curve_gan.gap("quality", **curve_gan.quality(points, curve, data))

    assert gap(good) < 0.5
    collapsed = good.clone()  # near one point: the document's rule likes it
    collapsed[:, 0] = low + (high - low) * (0.01 + 0.01 * torch.rand(4096))
    collapsed[:, 1] = f(collapsed[:, 0])
    assert curve_gan.performance(collapsed, curve) < 1e-9 and gap(collapsed) > 5
    half = good[(good[:, 0] < (low + high) / 2) | (torch.rand(4096) < 0.2)]
    assert gap(half) > 1  # the other half of the range has a fifth of its points
    off = good + torch.tensor([0.0, 0.1 * data[:, 1].std()])
    assert gap(off) == pytest.approx(2, rel=0.01)
    wide = good.clone()
    wide[:200, 0] = high + 0.01 * (high - low)
    assert curve_gan.quality(wide, curve, data)["outside"] == pytest.approx(200 / 4096)
    assert gap(wide) > 2
    fine = {"error": 0.004, "least": 0.6, "most": 1.9, "outside": 0.019}
    assert curve_gan.gap("quality", **fine) < 1
    limits = {"error": 0.0051, "least": 0.49, "most": 2.01, "outside": 0.021}
    for name, limit in limits.items():
        assert curve_gan.gap("quality", **fine | {name: limit}) > 1


def test_curve_gan_scale_and_penalty():
    data = curve_gan.create_data("exponential")
    scale = curve_gan.scale_of(data, True)
    scaled = curve_gan.Discriminator(*scale, 0.3, 0.2)[0](data)
    assert torch.allclose(scaled.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(scaled.std(0), torch.full((2,), 2.0), atol=1e-5)
    assert torch.allclose(curve_gan.Generator(*scale, 0.2)[-1](scaled), data, atol=1e-4)
    D = curve_gan.Discriminator(*curve_gan.scale_of(data, False), 0.3, 0.2)
    assert D[0](data).equal(data) and [x.p for x in D if hasattr(x, "p")] == [0.3] * 3

    # On a linear D of slope (3, 4), r1 / 2 * 25 is added, whose gradient is r1 * w.
    D = nn.Sequential(nn.Identity(), nn.Linear(2, 1), nn.Sigmoid())
    with torch.no_grad():
        D[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    grads = []
    for r1 in (0.0, 0.1):
        optimD = torch.optim.SGD(D.parameters(), lr=0.0)
        curve_gan.train_D_on_real(torch.ones(8, 2), D, nn.BCELoss(), optimD, r1)
        grads.append(D[1].weight.grad.clone())
    assert torch.allclose(grads[1] - grads[0], torch.tensor([[0.3, 0.4]]), atol=1e-5)


@pytest.mark.parametrize("pattern", [(5, 0), (3, 0), (2, 1), (7, 3), (1, 0), (99, 98)])
def test_numbers_gan_data_have_the_pattern(pattern):
    torch.manual_seed(0)
    multiple, remainder = pattern
    possible = [x for x in range(100) if x % multiple == remainder]
    sequence = numbers_gan.gen_sequence(*pattern, n=5000)
    assert sorted(set(sequence.tolist())) == possible
    batch = numbers_gan.gen_batch(*pattern)
    assert batch.shape == (10, 100) and batch.dtype == torch.float32
    assert set(numbers_gan.data_to_num(batch).tolist()) <= set(possible)
    assert numbers_gan.onehot_encoder(1, 5).tolist() == [0, 1, 0, 0, 0]
    assert numbers_gan.onehot_to_int(numbers_gan.int_to_onehot(75)) == 75


def test_numbers_gan_tells_good_from_collapsed_wrong_and_silent():
    def judge(data, multiple=5, remainder=0):
        functions = numbers_gan.distance, numbers_gan.variation, numbers_gan.score
        return [f(data, multiple, remainder) for f in functions]

    good = numbers_gan.int_to_onehot(torch.arange(0, 100, 5).repeat(500))
    distance, variation, score = judge(good)
    assert distance == 0 and variation == pytest.approx(0, abs=1e-6)
    assert score["fit"] == pytest.approx(1) and score["appear"] == 20
    assert score["rarest"] == pytest.approx(1) == score["commonest"]
    distance, variation, score = judge(good[:1].repeat(10_000, 1))  # always says 0
    assert distance == 0 and variation == pytest.approx(0.95)  # distance is fooled
    assert (score["fit"], score["appear"], score["rarest"]) == (1, 1, 0)
    assert score["commonest"] == pytest.approx(20)
    wrong = good.roll(1, dims=1)  # off by one, all of them
    distance, variation, score = judge(wrong)
    assert distance == 1 and variation == pytest.approx(1) and score["fit"] == 0
    assert judge(wrong, 5, 1)[:2] == [0, pytest.approx(0, abs=1e-6)]
    good[::10] = 0  # a tenth says nothing: neither 0 nor a multiple of 5
    assert numbers_gan.data_to_num(good)[:2].tolist() == [-1, 5]
    distance, variation, score = judge(good)
    assert distance > 0 and variation == pytest.approx(0.1, abs=0.01)
    assert judge(good[:1], 2, 1)[0] > 0  # silence has no pattern, though -1 is odd
    assert score["silent"] == pytest.approx(0.1) and score["fit"] == pytest.approx(1)
    assert score["commonest"] < 1.2 and judge(good * 0)[2]["silent"] == 1


def test_numbers_gan_learns_stops_and_prints(capsys):
    options = ["--device", "cpu", "--average", "0.9", "--lr", "0.002", "--out", "run"]
    assert numbers_gan.main([*options, "--epochs", "600"])["score"]["fit"] > 0.95
    capsys.readouterr()
    numbers_gan.main(["--generate", "run/generator.pt2", "--n", "7"])
    numbers = capsys.readouterr().out.splitlines()[0].split()
    assert len(numbers) == 7 and all(x == "-" or 0 <= int(x) < 100 for x in numbers)
    still = ["--lr", "1e-29", "--patience", "3", "--device", "cpu", "--out", "still"]
    numbers_gan.main(still)
    assert checkpoint_of("still")["run"]["epoch"] == 400  # asked at 100, 200, 300, 400
    resume = ["--resume", "still/checkpoint.pt", "--device", "cpu"]
    numbers_gan.main([*resume, "--patience", "4"])
    assert checkpoint_of("still")["run"]["epoch"] == 500
    refused(capsys, "must be below --mul", numbers_gan.main, ["--remainder", "5"])


@pytest.fixture
def judged(mnist, monkeypatch):
    """2,000 real training images, their labels, and as many test images to judge by."""
    small = {train: [x[:2000] for x in both] for train, both in mnist.items()}
    monkeypatch.setattr(common, "load_mnist", lambda train=True: small[train])
    return small[True][0].unsqueeze(1) / 127.5 - 1, small[True][1]


@pytest.mark.parametrize("script", [mnist_gan, mnist_bn_gan])
def test_digit_scores_tell_digits_from_noise(script, judged):
    real, labels = judged
    real = real.flatten(1) if script is mnist_gan else real
    rest = (100, "cpu", False) if script is mnist_gan else (100, "cpu")
    good = script.score(lambda _: real, *rest)
    assert good["frechet_pixels"] < 8 and min(good["digit_shares"]) > 0.06
    one = script.score(lambda _: real[labels == 1], *rest)  # it knows one digit
    assert one["frechet_pixels"] > 10 and one["digit_shares"][1] > 0.95
    noise = script.score(lambda _: torch.rand_like(real) * 2 - 1, *rest)
    assert noise["frechet_pixels"] > 50


def test_mnist_gan_fakes_images_and_graph(whole, monkeypatch):
    sizes, train_generator = [], mnist_gan.train_generator

    def recorded(D, G, loss_func, optim_G, batch_size, *rest):
        sizes.append(batch_size)
        return train_generator(D, G, loss_func, optim_G, batch_size, *rest)

    monkeypatch.setattr(mnist_gan, "train_generator", recorded)
    events = EventAccumulator(str(whole(mnist_gan)[0])).Reload()
    monkeypatch.delattr(torch.utils.tensorboard.SummaryWriter, "add_graph")
    options = ["--max-steps", "3", "--device", "cpu", "--hidden-dim", "8"]
    assert mnist_gan.main([*options, "--unit-range", "--out", "run"])["score"]
    assert sizes == [128, 128, 44]
    images = [mnist_gan.load_images("cpu", unit)[0] for unit in (False, True)]
    assert [x.min().item() for x in images] == [-1, 0] and images[0].max() == 1
    # In TensorBoard, there is a graph, and a picture an epoch.
    assert [image.step for image in events.Images("Generated Images")] == [3, 6, 9]
    nodes = " ".join(node.name for node in events.Graph().node)
    assert "Generator[0]" in nodes and "Discriminator[1]" in nodes


def test_mnist_bn_gan_uses_one_noise_for_both_updates_and_saves_states(whole):
    (D, G), seen = nets_of(mnist_bn_gan), []
    D.register_forward_hook(lambda net, inputs, output: seen.append(inputs[0]))
    optims = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (D, G)]
    step_of(mnist_bn_gan, D, G, *optims)
    assert len(seen) == 3 and torch.equal(seen[1], seen[2])
    run, *_ = whole(mnist_bn_gan)
    G.load_state_dict(torch.load(run / "generator.pth", weights_only=True))
    noise = torch.randn(9, 100)
    saved = torch.export.load(run / "generator.pt2").module()
    assert torch.allclose(saved(noise), G.eval()(noise), atol=1e-6)
    state = torch.load(run / "discriminator.pth", weights_only=True)
    assert same({**state}, {**checkpoint_of(run)["parts"]["D"]})


def test_mnist_cgan_draws_the_digits_that_are_asked_for(whole, monkeypatch, capsys):
    generate = ["--generate", str(whole(mnist_cgan)[0] / "generator.pt2")]
    asked, forward = [], mnist_cgan.Generator.forward

    def recorded(self, noise, labels):
        asked.append(labels.tolist())
        return forward(self, noise, labels)

    monkeypatch.setattr(mnist_cgan.Generator, "forward", recorded)
    mnist_cgan.main([*generate, "--digits", "2026", "--n", "2", "--out", "a"])
    mnist_cgan.main([*generate, "--digits", "7", "--n", "64", "--out", "b"])
    mnist_cgan.main(generate)
    assert asked == [[2, 0, 2, 6, 2, 0, 2, 6], [7] * 64, list(range(10))]
    sizes = [Image.open(f"{x}/samples/generated.png").size for x in "ab"]
    assert sizes == [(122, 62), (242, 242)]
    for bad in ("--digits=x", "--digits=-1", "--digits=7.5", "--noise-dim=50"):
        refused(capsys, bad.partition("=")[0], mnist_cgan.main, [*generate, bad])


def test_mnist_cgan_score_sees_wrong_digits(judged):
    real, labels = judged
    by_digit = [real[labels == digit] for digit in range(10)]

    def right(noise, asked):
        chosen = [by_digit[d][n // 10 % 150] for n, d in enumerate(asked.tolist())]
        return torch.stack(chosen)

    good = mnist_cgan.score(right, 100, "cpu")
    bad = mnist_cgan.score(lambda z, asked: right(z, (asked + 1) % 10), 100, "cpu")
    assert good["nearest"] > 0.85 and min(good["nearest_of_digit"]) > 0.7
    assert bad["nearest"] < 0.05
    assert max(good["frechet_pixels"], bad["frechet_pixels"]) < 8  # both are digits


def test_aae_mnist_reparameterization_images_and_interval(whole):
    torch.manual_seed(0)
    mu = torch.full((50_000, 1), 3.0, requires_grad=True)
    logvar = torch.full((50_000, 1), math.log(0.25), requires_grad=True)
    z = aae_mnist.reparameterization(mu, logvar)
    assert z.mean().item() == pytest.approx(3, abs=0.02)
    assert z.std().item() == pytest.approx(0.5, rel=0.02)
    z.sum().backward()
    assert mu.grad.unique().tolist() == [1] and logvar.grad.abs().max() > 0
    images, _ = aae_mnist.load_images(32, "cpu")
    assert images.shape == (300, 1, 32, 32) and images.min() == -1 == -images.max()
    run, *_ = whole(aae_mnist)
    assert Image.open(run / "reconstructions.png").size == (342, 342)  # 5 x 2 rows
    assert Image.open(run / "walk.png").size == (342, 308)  # 9 walks of 10 steps
    options = ["--batch-size", "128", "--max-steps", "5", "--sample-interval", "2"]
    aae_mnist.main([*options, "--latent-dim", "4", "--device", "cpu", "--out", "run"])
    steps = [int(path.stem[-6:]) for path in Path("run/samples").iterdir()]
    assert sorted(steps) == [2, 4, 5]


def test_aae_mnist_score_sees_codes_and_samples(judged):
    images, _ = aae_mnist.load_images(32, "cpu", train=False)
    torch.manual_seed(0)
    codes = torch.randn(len(images), 10)
    good = aae_mnist.score(lambda x: codes, lambda z: images, images)
    assert good["reconstruction_error"] == 0 and good["wasserstein_2"] < 0.2
    assert good["frechet_pixels"] < 1e-6
    bad = aae_mnist.score(lambda x: codes + 3, lambda z: images * 0, images)
    assert bad["wasserstein_2"] > 9 and bad["frechet_pixels"] > 10


def arguments(**given):
    given = {"resume": None, "out": None, "device": "cpu", "epochs": 1} | given
    args = argparse.Namespace(script="x", batch_size=128, max_steps=None, **given)
    args.kept = {"script": "x"}
    return args


def test_minibatches_are_a_shuffled_partition():
    torch.manual_seed(0)
    data = torch.arange(300)
    with common.Run(arguments(epochs=2)) as run:
        seen = [[*run.minibatches(data, -data)] for _ in run.epochs()]
    for epoch in seen:
        assert [len(batch) for batch, _ in epoch] == [128, 128, 44]
        assert all(torch.equal(x, -y) for x, y in epoch)
    first, second = (torch.cat([x for x, _ in epoch]) for epoch in seen)
    assert first.sort().values.equal(data)
    assert not first.equal(data) and not first.equal(second)
    assert run.step == 6 and run.examples == 600


def test_mnist_is_what_it_should_be(mnist):
    assert [mnist[x][0].shape for x in (1, 0)] == [(60_000, 28, 28), (10_000, 28, 28)]
    assert mnist[True][1][:5].tolist() == [5, 0, 4, 1, 9]
    assert [path.suffix for path in common.MNIST.iterdir()] == [".gz"] * 4


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "text"])
def test_a_damaged_archive(damage, tmp_path, monkeypatch, capsys):
    shutil.copytree(common.MNIST, tmp_path / "raw")
    monkeypatch.setattr(common, "MNIST", tmp_path / "raw")
    archive = tmp_path / "raw" / "train-labels-idx1-ubyte.gz"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes({"cut": data[:1000], "text": b"hello"}.get(damage, data))
    if damage == "missing":
        archive.unlink()
    refused(capsys, (archive.name, "git checkout data"), LOAD_MNIST, status=1)


def test_run_folders_are_numbered_and_never_reused(capsys, monkeypatch):
    runs = [common.new_folder(arguments()) for _ in range(3)]
    assert [str(run) for run in runs] == ["runs/x/1", "runs/x/2", "runs/x/3"]
    Path("runs/x/10").mkdir()
    Path("runs/x/notes").mkdir()
    assert common.new_folder(arguments()).name == "11"
    assert common.new_folder(arguments(out="a/b")) == Path("a/b")
    assert common.new_folder(arguments(resume="a/b/checkpoint.pt")) == Path("a/b")
    refused(capsys, "not empty", common.new_folder, arguments(out="a/b"))
    listing = iter([[], [*Path("runs/x").glob("*")]])  # at first, it sees no runs
    monkeypatch.setattr(Path, "glob", lambda *_: next(listing))
    assert common.new_folder(arguments()).name == "12"


def test_files_are_written_whole_or_not_at_all(monkeypatch, capsys):
    net = nn.Linear(3, 2)
    run = common.Run(arguments(out="run"), net=net)
    run.save_checkpoint()
    before = contents("run")

    def full_disk(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.save_generator(net, torch.ones(2, 3))
    with pytest.raises(SystemExit), run:
        run.save_checkpoint()
    error = capsys.readouterr().err
    assert "No space left" in error and "--resume run/checkpoint.pt" in error
    assert contents("run") == before


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("owned"),))


def test_files_that_are_none_and_files_that_attack(capsys):
    net = nn.Linear(4, 3)
    run = common.Run(arguments(out="run"), net=net)
    run.save_checkpoint()
    run.save_generator(net, torch.randn(5, 4))
    good = Path("run/checkpoint.pt").read_bytes()
    for n in range(0, len(good), 101):
        Path("cut.pt").write_bytes(good[:n])
        refused(capsys, "no checkpoint.pt", common.load, "cut.pt", "x", "run")
    torch.save({"weights": torch.ones(3)}, "plain.pt")
    torch.save({"args": {"script": "x"}, "run": Attack()}, "attack.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Attack()))
    for name in ("plain", "attack", "pickle"):
        refused(capsys, "no checkpoint.pt", common.load, f"{name}.pt", "x", "run")
    refused(capsys, "x.py", common.load, "run/checkpoint.pt", "y", "run")

    good = bytearray(Path("run/generator.pt2").read_bytes())
    with zipfile.ZipFile("run/generator.pt2") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    good[good.index(files["archive/state.pt"]) + 500] ^= 1
    Path("flipped.pt2").write_bytes(good)
    with zipfile.ZipFile("attack.pt2", "w") as archive:  # whatever else it may hold
        for name, content in files.items():
            bad = pickle.dumps(Attack())
            archive.writestr(name, content if name.endswith("json") else bad)
    torch.save({"a": 1}, "checkpoint.pt2")
    for name in ("flipped", "attack", "checkpoint"):
        refused(capsys, "no generator.pt2", common.load, f"{name}.pt2", "x", "state")
    refused(capsys, "x.py", common.load, "run/generator.pt2", "y", "state")
    assert not Path("owned").exists()


def test_distances_and_averages():
    torch.manual_seed(0)
    mean, cov = common.gaussian(torch.randn(2000, 3))
    distance, shift = common.frechet_distance, torch.tensor([3.0, 0.0, 4.0])
    assert distance((mean, cov), (mean, cov)) == pytest.approx(0, abs=1e-9)
    assert distance((mean, cov), (mean + shift, cov)) == pytest.approx(25, rel=1e-4)
    # Twice as wide: tr C + 4 tr C - 2 * 2 tr C = tr C
    wide = distance((mean, cov), (mean, 4 * cov))
    assert wide == pytest.approx(cov.trace().item(), rel=1e-4)

    rule = common.moving_average(0.99)
    old, new = torch.zeros(3), torch.ones(3)
    assert rule(old, new, torch.tensor(1)).tolist() == pytest.approx([9 / 11] * 3)
    assert rule(old, new, torch.tensor(5000)).tolist() == pytest.approx([0.01] * 3)
    none = common.moving_average(0.0)
    assert none(old, new, torch.tensor(5000)).tolist() == [1.0] * 3
    count = torch.tensor(7)  # batch norm's, of minibatches
    assert rule(torch.tensor(3), count, torch.tensor(5)) is count


def test_bfloat16_leaves_a_gradient_where_D_is_sure(monkeypatch):
    D = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
    original = copy.deepcopy(D)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    common.use_bfloat16(D)
    x = torch.full((2, 4), 0.1)
    old = D(x)
    assert old.dtype == torch.float32
    assert 0 < (old - original(x)).abs().max() < 0.01  # it was computed in bfloat16
    with torch.no_grad():
        D[0].weight.zero_()
        D[0].bias.fill_(10.0)  # real, says D, of a fake
    loss = nn.BCELoss()(D(x), torch.zeros(2, 1))
    loss.backward()
    assert loss.item() == pytest.approx(10, rel=0.01)  # not 100, which has no gradient
    assert D[0].bias.grad.item() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("script", [mnist_gan, mnist_bn_gan, mnist_cgan, aae_mnist])
def test_bfloat16_changes_only_how_numbers_are_rounded(script, monkeypatch):
    monkeypatch.setattr(script, "score", lambda *_: {"none": 0})
    options, losses = ["--max-steps", "3", "--device", "cpu", *SHORT], []
    for fast in ({"avx512_bf16": True}, {}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda fast=fast: fast)
        losses.append(script.main(options)["history"]["loss_D"][1])
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)


def test_errors_that_nobody_caught_are_one_line(capsys):
    disk, nan = OSError(28, "No space left"), RuntimeError("should be between 0 and 1")
    stop, hook = KeyboardInterrupt(), sys.excepthook
    refused(capsys, "interrupted", hook, type(stop), stop, None, status=130)
    refused(capsys, "No space left", hook, type(disk), disk, None, status=1)
    refused(capsys, "NaN", hook, type(nan), nan, None, status=1)
    hook(ValueError, ValueError("a bug"), None)
    assert "a bug" in capsys.readouterr().err
    # As a program, without torchvision, which takes seconds, where it is not needed.
    code = """import runpy, sys, curve_gan, numbers_gan
sys.argv = ["linear_gan.py", "--max-steps", "2", "--out", sys.argv[1]]
runpy.run_path("linear_gan.py", run_name="__main__")
sys.exit("torchvision" in sys.modules or "matplotlib.pyplot" in sys.modules)"""
    command = [sys.executable, "-W", "error", "-c", code, str(Path.cwd() / "run")]
    assert subprocess.check_output(command, cwd=HERE).startswith(b"Writing to ")


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_page_names_what_there_is(page):
    text, scripts = (HERE / page).read_text(encoding="utf-8"), set()
    for title, table in re.findall(
        r"<summary>(.*?)</summary>(.*?)</details>", text, re.DOTALL
    ):
        (name,) = re.findall(r"<code>(\w+)\.py</code>", title)
        scripts.add(script := importlib.import_module(name))
        for row in re.findall(r"^\|(.*)\|$", table, re.MULTILINE)[2:]:
            code = re.findall(r"`(\w+)`", row.split("|")[-1])
            assert code and all(hasattr(script, x) for x in code), row
    assert scripts == set(SCRIPTS)
    for name, options in re.findall(r"python3? (\w+)\.py([^\n`|<&]*)", text):
        known = vars(importlib.import_module(name).parse([])).keys()
        for option in re.findall(r" --([\w-]+)", options.partition("#")[0]):
            assert option.replace("-", "_") in known, (name, option)
    for path in re.findall(r"\]\((?!http)([\w./-]+)\)", text):
        assert (HERE / path).exists(), path


def test_both_pages_have_the_same_commands_and_figures():
    names = ["README.md", "README.zh-CN.md"]
    pages = [(HERE / name).read_text(encoding="utf-8") for name in names]
    assert all(x in page.splitlines()[0] for x, page in zip(names[::-1], pages))
    for pattern in (r"```\w+\n(.*?)```", r"`(python[^`]*|[\w./-]+)`"):
        found = [re.findall(pattern, page, re.DOTALL) for page in pages]
        code = [sorted(re.sub(r" *#.*", "", x) for x in texts) for texts in found]
        assert code[0] == code[1] and code[0]
    pages = [page.partition("\n")[2] for page in pages]
    figures = [sorted(re.findall(r"\d+(?:[.,]\d+)*", page)) for page in pages]
    assert figures[0] == figures[1]
