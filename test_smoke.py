"""Runs every script for a few steps and looks at what came out."""

import contextlib
import gc
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import optimizer

import aae_mnist
import common
import curve_gan
import linear_gan
import mnist_bn_gan
import mnist_cgan
import mnist_gan
import numbers_gan

# Options for three steps an epoch; the shapes of what the generator takes and makes;
# the name of the net that is saved; the nets in the order of their updates.
STEPS, IMAGE, G = "--batch-size 128", (1, 28, 28), "average_G"
SCRIPTS = {
    linear_gan: ("--batch-size 400", [(2,)], (2,), "G", "D G"),
    curve_gan: ("--batch-size 800", [(2,)], (2,), "best_G", "D D G"),
    numbers_gan: ("--seed 0", [(100,)], (100,), G, "D D G"),
    mnist_gan: (STEPS, [(100,)], IMAGE, G, "D G"),
    mnist_bn_gan: (STEPS, [(100,)], IMAGE, G, "D G"),
    mnist_cgan: (STEPS, [(100,), ()], IMAGE, G, "D G"),
    aae_mnist: (f"{STEPS} --sample-interval 3", [(10,)], (1, 32, 32), "average_decoder")
    + ("encoder+decoder discriminator",),
}
PAINTERS = [*SCRIPTS][3:]
FILES = "samples losses.png training.gif metrics.json generator.pt2 checkpoint.pt "
MORE = {linear_gan: "data.png", curve_gan: "data.png new_data.png"}
MORE |= {mnist_bn_gan: "generator.pth discriminator.pth", numbers_gan: "new_data.png"}
MORE |= {aae_mnist: "reconstructions.png walk.png"}
IMPORTS = """
import sys, warnings, torch, torch.utils.tensorboard, matplotlib.figure, tqdm, PIL.Image
def state():
    streams = sys.stdout, sys.stderr, sys.excepthook
    return streams, torch.get_num_threads(), torch.initial_seed(), warnings.filters[:]
torch.set_num_threads(2)
before = state()
import linear_gan, curve_gan, numbers_gan
assert state() == before and not {"torchvision", "matplotlib.pyplot"} & {*sys.modules}
import torchvision.transforms.functional  # it takes seconds: not for the toys
before = state()
import mnist_gan, mnist_bn_gan, mnist_cgan, aae_mnist
assert state() == before"""

torch.set_num_threads(1)
HERE, CPU = Path(__file__).resolve().parent, ["--device", "cpu"]
TEMPORARY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
# The scripts get 300 images (steps of 128, 128 and 44), the judge 1,000.
LOAD_MNIST, JUDGE, RUN_INIT = common.load_mnist, common.judge, common.Run.__init__
MNIST = {train: LOAD_MNIST(train) for train in (True, False)}
DIGITS = {k: (x.unsqueeze(1) / 127.5 - 1, labels) for k, (x, labels) in MNIST.items()}
common.load_mnist = lambda train=True: tuple(x[:300] for x in MNIST[train])
common.judge = lambda *images, **more: JUDGE(*(x[:1000] for x in images), **more)

near, exactly = pytest.approx, partial(torch.testing.assert_close, rtol=0, atol=0)
name_of = lambda script: getattr(script, "__name__", script)
each = partial(pytest.mark.parametrize, "script", ids=name_of)
each_script = each([*SCRIPTS])
source_of = lambda script: Path(script.__file__).read_text(encoding="utf-8")
checkpoint_of = lambda run: torch.load(Path(run, "checkpoint.pt"), weights_only=True)
events_of = lambda run: EventAccumulator(str(run)).Reload()
scalars = lambda run, name: {x.step: x.value for x in events_of(run).Scalars(name)}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own, so that runs/ starts empty."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True, scope="session")
def programs(request):
    """Each script as a program, on all of MNIST, beside the tests: {script: future}."""
    if not any("program" in item.name for item in request.session.items):
        return {}
    env = {
        **os.environ,
        "MPLBACKEND": "module://no_such.backend",
        "OMP_NUM_THREADS": "1",
    }
    env |= {"PYTHONPATH": str(HERE), "PYTHONIOENCODING": "ascii"}
    how = {"cwd": TEMPORARY.name, "env": env, "capture_output": True}
    more = ["--max-steps", "2", *CPU, "--out"]
    words = {x: [x.__file__, *more, f"program/{x.__name__}"] for x in SCRIPTS}
    words["gpu"] = ["-W", "ignore", "-c", "import test_smoke as t; t.check_on_a_gpu()"]
    words, run = words | {"import": ["-c", IMPORTS]}, partial(subprocess.run, **how)
    pool = ThreadPoolExecutor(1)
    return {x: pool.submit(run, [sys.executable, *y]) for x, y in words.items()}


class Done(BaseException):
    """Ends main when it has trained: before it saves a generator and judges it."""


def train(script, options, device="cpu", ends=True):
    """Train by main; save no generator and judge none if that ends it. Returns a Run."""
    runs = []
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Done):
        patch.setattr(common.Run, "__enter__", lambda run: runs.append(run) or run)
        patch.setattr(torch, "set_num_threads", None)  # threads are not main's to set
        if ends:
            patch.setattr(common.Run, "export", MagicMock(side_effect=Done))
        runs.append(script.main([*options.split(), "--device", device]))
    return runs[0] if ends else runs


@cache
def whole(script):
    """The one whole run of a script, of three epochs: (folder, metrics, output, Run)."""
    folder, out = Path(TEMPORARY.name, script.__name__), io.StringIO()
    with contextlib.redirect_stdout(out):
        options = f"{SCRIPTS[script][0]} --epochs 3 --out {folder}"
        run, metrics = train(script, options, ends=False)
    return folder, metrics, out.getvalue(), run


def refused(capsys, word, call, *args, status=2):
    """Call what has to end with this status, in one line with this word."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*args)
    said, code = capsys.readouterr().err, stop.value.code
    if isinstance(code, str):  # what Python itself prints, with status 1
        said, code = said + code, 1
    (message,) = [x for x in said.strip().splitlines() if not x.startswith("usage: ")]
    assert code == status and word in message and (status == 130 or "rr" in message)


def contents(run):
    """{name: bytes} of a run's files, but not TensorBoard's."""
    files = [x for x in Path(run).rglob("*.*") if "events" not in x.name]
    return {x.relative_to(run): x.read_bytes() for x in files if x.is_file()}


# A run: what it leaves, how it goes on, how it ends.


@each_script
def test_a_run_leaves_what_it_should(script):
    run, metrics, out, _ = whole(script)
    assert "--generate" in out and all(f"\n{x}: " in out for x in metrics["score"])
    named = [Path(x) for x in re.findall(r"\S+\.(?:png|gif)", out)]
    assert len(named) == 3 and all(x.exists() for x in named)
    names = {path.name for path in run.iterdir() if "events" not in path.name}
    assert names == {*(FILES + MORE.get(script, "")).split()}
    pictures = sorted((run / "samples").iterdir())
    assert pictures[-1].name == named[0].name and "epoch_00003_step_" in named[0].name
    frames = {path.read_bytes() for path in pictures}  # the GIF keeps one of the same
    assert Image.open(run / "training.gif").n_frames == len(frames)
    assert (run / "metrics.json").read_text() == json.dumps(metrics, default=str)
    steps = {curve_gan: [3, 9], numbers_gan: [1, 3]}.get(script, [3, 6, 9])
    for name in ("loss_D", "loss_G"):
        values = metrics["history"][name]
        assert [*values] == steps and all(0 < loss < 20 for loss in values.values())
        assert scalars(run, name) == near(values, rel=1e-5)
    parts = checkpoint_of(run)["parts"]
    for name in [x for x in parts if x.startswith("average_")]:
        for old, new in zip(parts[name].values(), parts[name[8:]].values()):
            assert old.isfinite().all() and (old.dim() == 0 or not old.equal(new))


@each_script
def test_stopped_and_resumed_is_as_in_one_go(script, monkeypatch, capsys):
    (run, metrics, *_), log = whole(script), common.Run.log

    def interrupted(self, **values):
        if self.epoch == 2:
            self.writer.add_scalar("loss_G", 0.5, self.step)  # to be forgotten
            raise KeyboardInterrupt
        log(self, **values)

    options = [*SCRIPTS[script][0].split(), "--epochs", "3", *CPU, "--out", "run"]
    with monkeypatch.context() as patch:
        patch.setattr(common.Run, "log", interrupted)
        refused(capsys, "--resume run", script.main, options, status=130)
    before, resume = contents("run"), ["--resume", "run/checkpoint.pt", *CPU]
    (events,) = Path("run").glob("events*")  # TensorBoard sorts them by name, in which
    events.rename("run/events.out.tfevents.1")  # it has the second: 1 is before now
    assert script.main(resume)["score"] == metrics["score"]
    a, b = checkpoint_of(run), checkpoint_of("run")
    assert a["run"].pop("seconds") and b["run"].pop("seconds")
    assert a.pop("args") == b.pop("args")
    exactly(a, b)
    ours, theirs = contents(run), contents("run")
    once, twice = (
        [x.step for x in events_of(x).Scalars("loss_G")] for x in (run, "run")
    )
    assert ours.keys() == theirs.keys() and once == twice
    for name, content in [*before.items(), *ours.items()]:  # none overwritten
        assert name.suffix not in (".png", ".gif") or content == theirs[name], name
    if script in (linear_gan, mnist_gan):  # it is finished: now without its pictures
        shutil.rmtree("run/samples")
        Path("run/samples").mkdir()
        if script is mnist_gan:
            Path("run/samples/._epoch_00001.png").write_text("left by macOS")
        assert script.main(resume)["score"] == metrics["score"]


@each_script
def test_document_undoes_every_departure_and_max_steps_stops(script):
    args, default = script.parse(["--document"]), script.parse([])
    for name, value in script.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name), name
    name = "lr" if script in (mnist_cgan, aae_mnist) else "beta1"  # what is given wins
    assert getattr(script.parse(["--document", f"--{name}", "0.125"]), name) == 0.125
    options = SCRIPTS[script][0].partition(" --sample")[0]
    run = train(script, f"{options} --document --max-steps 4 --out run")
    epoch, saved = 4 if script is numbers_gan else 2, checkpoint_of("run")  # inside it
    assert (saved["run"]["epoch"], saved["run"]["step"]) == (epoch, 4)
    assert saved["args"]["document"] and "--max-steps" in run.stop
    for name in [x for x in saved["parts"] if x.startswith("average_")]:
        exactly(saved["parts"][name], saved["parts"][name[8:]])  # there is no average
    last = max(x.name for x in Path("run/samples").iterdir())
    assert last == f"epoch_{epoch:05d}_step_000004.png"


@each(PAINTERS)
def test_losses_every_100_steps_and_fd_every_5_epochs(script, monkeypatch):
    monkeypatch.setattr(common, "judge", lambda *_, **__: {"fd": 5.5})
    state = checkpoint_of(whole(script)[0])
    state["args"]["sample_interval"] = 100
    state["run"] |= {"epoch": 4, "step": 98, "history": {}}
    torch.save(state, "checkpoint.pt")
    history = train(script, "--resume checkpoint.pt --epochs 5").history
    assert [*history["loss_D"]] == [*history["loss_G"]] == [100, 101]
    assert history["fd"] == {101: 5.5}


def arguments(**given):
    """What parse returns, of a script named x."""
    some = {"script": "x", "device": "cpu", "epochs": 1, "batch_size": 3, "seed": 0}
    some |= dict.fromkeys(("resume", "out", "max_steps", "checkpoint", "generate"))
    return Namespace(**some | given)


def test_what_is_logged_is_what_was_lost_on_shuffled_minibatches():
    data, seen = torch.arange(11), []
    with common.Run(arguments(epochs=6, out=Path("run"))) as run:
        assert (run.step, run.epoch, run.due, run.stop, run.history) == (
            0,
            0,
            0,
            "",
            {},
        )
        for _ in run.epochs(every=4):  # of four steps each; 1, 4 and 6 are due
            for batch in run.minibatches(data, -data):
                seen.append([*zip(*(x.tolist() for x in batch))])
                run.log(loss=run.step, tensor=torch.tensor(2.0 * run.step))
                if run.step % 5 == 0:
                    run.report()
    wanted = {4: 2.5, 5: 5, 10: 8, 15: 13, 16: 16, 20: 18.5, 24: 22.5}
    assert run.history["loss"] == scalars("run", "loss") == near(wanted)
    assert run.history["tensor"] == near({k: 2 * x for k, x in wanted.items()})
    assert checkpoint_of("run")["run"]["history"] == run.history
    assert [len(x) for x in seen] == [3, 3, 3, 2] * 6
    rows = [x for batch in seen for x in batch]
    assert sorted(rows[:11]) == sorted(rows[11:22]) == [(i, -i) for i in range(11)]
    assert rows[:11] != sorted(rows[:11]) != rows[11:22] != rows[:11]


@each_script
def test_a_loss_that_is_nan_stops_the_run(script, monkeypatch, capsys):
    shutil.copytree(whole(script)[0], "run")
    before = Path("run/checkpoint.pt").read_bytes()
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        loss = getattr(nn.functional, name)
        nan = lambda *x, f=loss, **y: f(*x, **y) * math.nan
        monkeypatch.setattr(nn.functional, name, nan)
    resume = ["--resume", "run/checkpoint.pt", "--epochs", "600", *CPU]
    refused(capsys, "lower learning rate", script.main, resume, status=1)
    assert Path("run/checkpoint.pt").read_bytes() == before


def test_errors_are_one_line_only_if_they_are_understood(monkeypatch, capsys):
    net = nn.Linear(3, 2)

    def fail(error, epochs, loss=1.0):
        with common.Run(arguments(epochs=epochs), net=net) as run:
            for _ in run.epochs():
                run.log(loss=loss)
            raise error

    for epochs, word in ((0, "nothing is saved"), (1, "--resume runs")):
        refused(capsys, word, fail, KeyboardInterrupt(), epochs, status=130)
        refused(capsys, word, fail, OSError(28, "No space left"), epochs, status=1)
        for error in (ValueError("a slip"), OSError(13, "Permission denied")):
            with pytest.raises(type(error)) as raised:
                fail(error, epochs)
            assert raised.value is error
            assert word in "".join(getattr(error, "__notes__", capsys.readouterr()))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="target"):
        patch.setattr(torch, "ones_like", lambda x: torch.full_like(x, 1.2))
        mnist_gan.main(["--max-steps", "2", *CPU])  # nothing is NaN
    refused(capsys, "loss is nan", fail, None, 1, math.nan, status=1)
    nn.init.constant_(net.bias, math.nan)
    refused(capsys, "NaN", fail, ValueError("of what NaN does"), 1, status=1)


@pytest.mark.parametrize(("full", "epochs"), [("generator", "3"), ("checkpoint", "4")])
def test_files_are_written_whole_or_not_at_all(full, epochs, monkeypatch, capsys):
    shutil.copytree(whole(mnist_bn_gan)[0], "run")
    Path("run/generator.pth").unlink()
    before, write_bytes = contents("run"), Path.write_bytes

    def half(path, data):
        write_bytes(path, data[: len(data) // 2] if full in path.name else data)
        if full in path.name:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    options = ["--resume", "run/checkpoint.pt", "--epochs", epochs, *CPU]
    refused(capsys, "No space left", mnist_bn_gan.main, options, status=1)
    assert before.items() <= contents("run").items()
    assert not {x.suffix for x in contents("run").keys() - before} - {".png"}


def test_run_folders_are_numbered_and_never_reused(capsys, monkeypatch):
    new = lambda **given: common.new_folder(arguments(**given)).as_posix()
    assert [new() for _ in range(3)] == ["runs/x/1", "runs/x/2", "runs/x/3"]
    Path("runs/x/10").mkdir()
    Path("runs/x/notes").mkdir()
    assert new() == "runs/x/11" and new(out=Path("a/b")) == "a/b"
    assert new(resume=Path("a/b/checkpoint.pt")) == "a/b"
    with monkeypatch.context() as patch:  # another run comes between look and mkdir
        patch.setattr(Path, "glob", lambda *_: [])
        assert new() == "runs/x/4"
    refused(capsys, "empty", lambda: new(out=Path("a/b")), status=1)
    Path("a/samples").write_text("")
    for bad in ({"out": Path("a/samples/below")}, {"resume": Path("a/checkpoint.pt")}):
        refused(capsys, "cannot", lambda x: new(**x), bad, status=1)
    shutil.rmtree("runs")
    with contextlib.suppress(OSError):  # where Windows allows no links
        Path("runs").symlink_to("nowhere")
        refused(capsys, "cannot", new, status=1)


# What a run saves, and what it reads.


@each_script
def test_a_saved_generator_is_used_again(script, monkeypatch, capsys):
    (run, *_), (_, shapes, result, saved, _) = whole(script), SCRIPTS[script]
    with (run / "generator.pt2").open("rb") as file:
        program = torch.export.load(file).module()
    before, state = contents(run), checkpoint_of(run)
    net = whole(script)[3].parts[saved].eval()
    net.load_state_dict(state["parts"][saved])
    for n in (1, 2, 9):
        x = [torch.randn(n, *x) if x else torch.arange(n) % 10 for x in shapes]
        assert program(*x).shape == (n, *result)
        assert torch.allclose(program(*x).flatten(1), net(*x).flatten(1), atol=1e-5)

    forward, pictures, path = nn.BatchNorm1d.forward, [], str(run / "checkpoint.pt")
    evaluated = lambda self, x: 1 / 0 if self.training else forward(self, x)
    monkeypatch.setattr(nn.BatchNorm1d, "forward", evaluated)
    for key, x in state["parts"][saved].items():
        state["parts"][saved][key] = x.flip(0) if x.dim() else x
    torch.save(state, "other.pt")
    for what, seed in ((path, "3"), (path, "3"), (path, "4"), ("other.pt", "3")):
        script.main(["--generate", what, "--seed", seed, "--n", "9"])
        out = Path(f"runs/{script.__name__}/{len(pictures) + 1}/samples/generated.png")
        assert str(out) in capsys.readouterr().out
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] and len({*pictures}) == 3
    assert contents(run) == before


class Attack:
    __reduce__ = lambda _: (Path.touch, (Path("owned"),))


BAD = """--batch-size: --batch-size 0; --batch-size 70000; RESUME --batch-size 5
--epochs: --epochs -1; --epochs 0; --epochs 1.5; GENERATE --epochs 2
LR: LR 0; LR nan; LR inf; LR x; RESUME LR 0.5; GENERATE LR=0.5
BETA: BETA 1; BETA nan; RESUME BETA=0.25
--seed: --seed -1; RESUME --seed 5
--max-steps: --max-steps 0; GENERATE --max-steps 1
--device: --device tpu; GENERATE --device cpu
--n: --n 3; GENERATE --n 0; RESUME --n 3
--document: RESUME --document; GENERATE --document
--: --sead 1; RESUME --out new; RESUME GENERATE
no checkpoint.pt: --resume no.pt; --resume cut.pt; --resume .; --generate no.pt
no checkpoint.pt: --resume plain.pt; --generate attack.pt; --resume attack.pt
OTHER.py: --resume THEIRS; --generate THEIRS
not empty: --out FOLDER; GENERATE --out FOLDER
cannot write: --out cut.pt; GENERATE --out cut.pt/below"""


@each_script
def test_bad_input_is_refused_in_one_line(script, capsys):
    run, other = whole(script)[0], linear_gan if script is mnist_gan else mnist_gan
    before, path = contents(run), run / "checkpoint.pt"
    Path("cut.pt").write_bytes(path.read_bytes()[:5000])
    torch.save({"args": {"script": script.__name__}, "run": Attack()}, "attack.pt")
    torch.save({"weights": torch.ones(3)}, "plain.pt")
    lr = "--lr-D" if hasattr(script.parse([]), "lr_D") else "--lr"
    names = {"RESUME": f"--resume {path}", "GENERATE": f"--generate {path}", "LR": lr}
    names |= {"THEIRS": whole(other)[0] / "checkpoint.pt", "OTHER": other.__name__}
    names |= {"BETA": "--b1" if script is aae_mnist else "--beta1", "FOLDER": run}
    table = re.sub("[A-Z]{2,}", lambda x: str(names[x[0]]), BAD)
    for word, _, options in (line.partition(": ") for line in table.splitlines()):
        status = 1 if word in ("not empty", "cannot write") else 2
        for bad in options.split("; "):
            refused(capsys, word, script.main, bad.split(), status=status)
    assert not any(Path(x).exists() for x in ("runs", "new", "owned"))
    assert contents(run) == before


def test_a_damaged_archive(tmp_path, monkeypatch, capsys):
    shutil.copytree(common.DATA / "MNIST", tmp_path / "MNIST")
    monkeypatch.setattr(common, "DATA", tmp_path)
    archive = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte.gz"
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    for bad in (data, data[:1000], b"hello"):
        archive.write_bytes(bad)
        refused(capsys, archive.name, LOAD_MNIST, False, status=1)
    archive.unlink()
    refused(capsys, archive.name, LOAD_MNIST, False, status=1)


# The lesson: nets, updates, losses.
LAYERS = """linear_gan: L2-5 T L5-3 T L3-1 L2-2
curve_gan: L2-256 L0.2 D0.0 L256-128 L0.2 D0.0 L128-64 L0.2 D0.0 L64-1 S \
L2-16 L0.2 L16-32 L0.2 L32-2
numbers_gan: L100-1 S L100-100 R
mnist_gan: L784-256 L0.1 L256-256 L0.1 L256-1 S L100-256 R L256-256 R L256-784 T
mnist_bn_gan: L784-512 L0.2 L512-256 L0.2 L256-1 S L100-BN
mnist_cgan: E10-10 L794-512 L0.2 L512-256 L0.2 L256-1 S E10-10 L110-BN
aae_mnist: L10-512 L0.2 L512-512 B512 L0.2 L512-1024 T L10-512 L0.2 L512-256 L0.2 \
L256-1 S L1024-512 L0.2 L512-512 B512 L0.2 L512-10 L512-10"""
BN = "256 L0.2 B256 L256-512 L0.2 B512 L512-1024 L0.2 B1024 L1024-784 T"


@each_script
def test_nets_are_the_documents(script):
    nets = [x for k, x in sorted(whole(script)[3].parts.items()) if "_" not in k]
    nets, words = [x for x in nets if isinstance(x, nn.Module)], [f"{script.__name__}:"]
    for x in (x for net in nets for x in net.modules() if not [*x.children()]):
        sizes = re.findall(r"(?<![\w-])\d[\d.]*", x.extra_repr().partition(", eps")[0])
        words.append(type(x).__name__[0] + "-".join(sizes))
    assert " ".join(words) in LAYERS.replace("BN", BN).splitlines()


@each_script
def test_each_update_moves_one_net_by_the_documents_loss(script, monkeypatch):
    """In main. D says 0.9, 0.8, 0.7, one after the other, whatever it sees."""
    said, weights, runs, forward = [], [], [], nn.Linear.forward

    def decided(self, x):
        y = forward(self, x)
        if self.out_features > 1:
            return y
        said.append((0.9, 0.8, 0.7)[len(said)])
        return y - y.detach() + math.log(said[-1] / (1 - said[-1]))

    def look(*_):
        nets = {k: x for k, x in runs[0].parts.items() if isinstance(x, nn.Module)}
        sums = {k: [p.sum().item() for p in x.parameters()] for k, x in nets.items()}
        weights.append({k: x for k, x in sums.items() if "_" not in k})

    init = lambda self, *x, **parts: RUN_INIT(self, *x, **parts) or runs.append(self)
    pixels = lambda _, x, y: (x - y).sum() - (x - y).sum().detach() + 2
    monkeypatch.setattr(common.Run, "__init__", init)
    monkeypatch.setattr(common.SummaryWriter, "add_graph", lambda *_: None)
    monkeypatch.setattr(nn.Linear, "forward", decided)
    monkeypatch.setattr(nn.L1Loss, "forward", pixels)
    hooks = [optimizer.register_optimizer_step_pre_hook(look)]
    hooks.append(optimizer.register_optimizer_step_post_hook(look))
    more = "--adversarial 0.25" if script is aae_mnist else ""
    run = train(script, f"{SCRIPTS[script][0]} --max-steps 1 {more}")
    _ = [look(), *(hook.remove() for hook in hooks)]
    pairs = itertools.pairwise(weights)
    moves = ["+".join(k for k in x if x[k] != y[k]) for x, y in pairs]
    assert moves[::2] == SCRIPTS[script][4].split() and not any(moves[1::2])
    a, b, c = -math.log(0.9), -math.log(1 - 0.8), -math.log(0.7)  # real, fake, G's
    half = 2 if script in (linear_gan, mnist_bn_gan) else 1
    wanted = (a + b) / half, c
    if script is aae_mnist:  # G comes first
        wanted = (-math.log(0.8) - math.log(0.3)) / 2, 0.25 * a + 0.75 * 2
    losses = [run.history[name][1] for name in ("loss_D", "loss_G")]
    assert len(said) == 3 and losses == near(wanted, rel=1e-4)
    for name in [x for x in run.parts if x.startswith("average_")]:
        net, average = run.parts[name[8:]], run.parts[name]
        exactly(average.state_dict(), net.state_dict())  # after one step
        norms = [x for x in net.modules() if isinstance(x, nn.BatchNorm1d)]
        assert net.training and not (norms and average.training)


def test_the_average_and_distances():
    """It weighs what came first, until step m of n, by C(m + 13, 14) / C(n + 13, 14)."""
    net, average = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for step in range(1, 201):
        nn.init.constant_(net.weight, step <= 180)
        net.num_batches_tracked += 1
        common.update_average(average, net, step)
    early = math.comb(193, 14) / math.comb(213, 14)
    assert average.weight.item() == near(early, rel=1e-3)
    assert average.num_batches_tracked == 200
    mean, cov = common.gaussian(torch.randn(2000, 3))
    # Twice as wide, and shifted: tr C + 4 tr C - 2 * 2 tr C = tr C, and 25
    wide = mean + torch.tensor([3.0, 0.0, 4.0]), 4 * cov
    wanted = cov.trace().item() + 25
    assert common.frechet_distance((mean, cov), wide) == near(wanted, rel=1e-4)


def test_linear_gan():
    data = torch.cat([linear_gan.create_data() for _ in range(100)])
    assert data.mean(0).tolist() == near([1, 2], abs=0.05)
    covariance = [1.01, 1.95, 1.95, 4.25]  # A^T A
    assert torch.cov(data.T).flatten().tolist() == near(covariance, abs=0.1)
    D, G = linear_gan.make_Disc(), linear_gan.make_Gen()
    linear_gan.init_params(D, G, 0.05, 0.005, 0.5, 0.0)
    weights = torch.cat([p.flatten() for net in (D, G) for p in net.parameters()])
    assert 0.01 < weights.std() < 0.03
    G[0].weight.data, G[0].bias.data = torch.tensor([[1, -0.1], [2, 0.5]]), data.mean(0)
    assert linear_gan.score(G, data)["wasserstein_2"] < 0.05
    distances = train(linear_gan, "--epochs 12").history["wasserstein_2"]
    assert distances[125] > 2 and distances[125 * 12] < 1


def test_curve_gan_saves_the_best_generator_and_stops(monkeypatch, capsys):
    for script in (curve_gan, numbers_gan):
        stop = script.EarlyStop(3).stop
        said = [stop(gdif) for gdif in (5, 4, 6, 3, 3, 4, 2, 2, 9, 9)]
        assert said == [False] * 9 + [True]  # an equal gdif is no improvement
    gaps, last = iter((3.0, 1.0, 2.0, 4.0, 5.0, 3.0, 1.0)), "run/checkpoint.pt"
    with monkeypatch.context() as patch:
        patch.setattr(curve_gan, "gap", lambda *_, **__: next(gaps))
        assert train(curve_gan, "--patience 3 --epochs 9 --out run").epoch == 5
        assert "--patience" in capsys.readouterr().out.splitlines()[-1]
        train(curve_gan, "--epochs 2 --out two")
    parts, two = (checkpoint_of(x)["parts"] for x in ("run", "two"))
    exactly(parts["best_G"], two["best_G"])
    assert parts["stopper"] == {"steps": 3, "min_gdif": 1.0}
    curve_gan.main(["--resume", last, *CPU])
    assert "--patience" in capsys.readouterr().out
    assert checkpoint_of("run")["run"]["epoch"] == 5  # it trained nothing
    assert train(curve_gan, f"--resume {last} --patience 4 --epochs 6").epoch == 6


@pytest.mark.parametrize("curve", list(curve_gan.CURVES))
def test_curve_gan_data_and_quality(curve):
    data, good = curve_gan.create_data(curve), curve_gan.create_data(curve, 4096)
    _, _, (low, high), (bottom, top) = curve_gan.CURVES[curve]
    assert curve_gan.performance(data, curve) < 1e-9 and len(data) == 2048
    assert low <= data[:, 0].min() < low + 0.1 and high - 0.1 < data[:, 0].max() <= high
    assert bottom <= data[:, 1].min() and data[:, 1].max() <= top
    gap = lambda x: curve_gan.gap("quality", **curve_gan.quality(x, curve, data))
    off, wide = good + torch.tensor([0, 0.1 * data[:, 1].std()]), good.clone()
    wide[:200, 0] = high + 0.01 * (high - low)
    half = good[(good[:, 0] < (low + high) / 2) | (torch.rand(4096) < 0.2)]
    assert gap(good) < 0.6 and gap(off) == near(2, rel=0.01) and gap(wide) > 2
    assert gap(half) > 1 and gap(data[data[:, 0] < low + 0.02 * (high - low)]) > 5


def test_curve_gan_units_and_penalty(monkeypatch):
    G, noise, std = curve_gan.Generator(0.2), torch.randn(9, 2), torch.tensor([2.0, 5])
    mean, before = torch.tensor([1.0, -3.0]), G(noise)
    drawn = curve_gan.in_units(G, mean, std)(noise)
    assert torch.allclose(drawn, before * std + mean, atol=1e-5)
    assert G(noise).equal(before)  # it makes a copy
    # On a linear D of slope (3, 4), r1 / 2 * 25 is added, whose gradient is r1 * w.
    D, grads = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid()), []
    D[0].weight.data = torch.tensor([[3.0, 4.0]])
    still = torch.optim.SGD(D.parameters(), lr=0.0)
    for r1 in (0.1, 0.0):
        batch = torch.ones(8, 2), torch.ones(8, 1), D, nn.BCELoss(), still
        curve_gan.train_D_on_real(*batch, r1)
        grads.append(D[0].weight.grad.clone())
        monkeypatch.setattr(torch.autograd, "grad", None)  # not called if r1 is 0
    assert torch.allclose(grads[0] - grads[1], torch.tensor([[0.3, 0.4]]), atol=1e-5)


def test_numbers_gan_tells_good_from_collapsed_wrong_and_silent():
    for multiple, remainder in [(5, 0), (2, 1), (7, 3), (1, 0), (99, 98)]:
        batch = numbers_gan.gen_batch(multiple, remainder, 5000)
        possible = [x for x in range(100) if x % multiple == remainder]
        assert sorted({*numbers_gan.data_to_num(batch).tolist()}) == possible
    good = numbers_gan.int_to_onehot(torch.arange(0, 100, 5).repeat(500))
    silent, (distance, variation) = (
        good * 0,
        (numbers_gan.distance, numbers_gan.variation),
    )
    for (
        data,
        *wanted,
    ) in [  # distance, variation, silent, fit, appear, rarest, commonest
        (good, 0, 0, 0, 1, 1, 1, 1),
        (good[:1].repeat(10_000, 1), 0, 0.95, 0, 1, 0.05, 0, 20),  # it fools distance
        (good.roll(1, dims=1), 1, 1, 0, 0, 0, 0, 0),
        (torch.cat([good, silent]), 12.5, 0.5, 0.5, 1, 1, 1, 1),
    ]:
        score = numbers_gan.score(data, 5, 0).values()
        numbers = [distance(data, 5, 0), variation(data, 5, 0), *score]
        assert numbers == near(wanted, abs=1e-5)
    ones = good.roll(1, dims=1), 5, 1
    assert distance(silent, 2, 1) > 0 and distance(*ones) + variation(*ones) < 1e-5


def test_numbers_gan_learns_stops_and_prints(monkeypatch, capsys):
    train(numbers_gan, "--lr 0.005 --epochs 400 --out run")
    numbers_gan.main(["--generate", "run/checkpoint.pt", "--n", "1000"])
    numbers = capsys.readouterr().out.splitlines()[-2].split()
    assert (
        sum(x != "-" and int(x) % 5 == 0 for x in numbers) > 800 == len(numbers) - 200
    )
    monkeypatch.setattr(numbers_gan, "variation", lambda *_: 0.5)
    assert (
        train(numbers_gan, "--patience 1 --out still").epoch == 200
    )  # the second look
    assert "--patience" in capsys.readouterr().out.splitlines()[-1]
    resume = "--resume still/checkpoint.pt"
    assert numbers_gan.main([*resume.split(), *CPU])["score"]["fit"] < 0.9
    assert "--patience" in capsys.readouterr().out
    assert train(numbers_gan, f"{resume} --patience 2").epoch == 300
    refused(capsys, "below --mul", numbers_gan.main, ["--remainder", "5"])


def seen_by(monkeypatch, cls):
    """A list that grows by (*inputs, output) of each call of a net of this class."""
    calls, forward = [], cls.forward
    recorded = lambda *x: calls.append((*x[1:], forward(*x))) or calls[-1][-1]
    monkeypatch.setattr(cls, "forward", recorded)
    return calls


def test_mnist_gan_fakes_images_and_graph(monkeypatch):
    calls = seen_by(monkeypatch, mnist_gan.Generator)
    train(mnist_gan, "--max-steps 3 --hidden-dim 8 --unit-range")
    sizes = [len(x) for x, _ in calls if len(x) != 64]  # 64: for the picture
    assert sizes == [128, 128, 128, 128, 44, 44]  # for D, for G
    images = [mnist_gan.load_images("cpu", unit) for unit in (False, True)]
    assert [x.min().item() for x in images] == [-1, 0] and images[0].max() == 1
    # In TensorBoard, there is a graph, and a picture an epoch.
    events = events_of(whole(mnist_gan)[0])
    assert [image.step for image in events.Images("Generated Images")] == [3, 6, 9]
    nodes = {x for node in events.Graph().node for x in node.name.split("/")}
    assert {"Generator[G]", "Discriminator[D]"} <= nodes


def test_mnist_bn_gan_uses_one_noise_for_both_updates_and_saves_states(monkeypatch):
    calls, run = (
        seen_by(monkeypatch, mnist_bn_gan.Discriminator),
        whole(mnist_bn_gan)[0],
    )
    train(mnist_bn_gan, f"{STEPS} --max-steps 1")
    (real, _), (fake, _), (again, _) = calls[-3:]
    assert fake.equal(again) and not fake.equal(real) and not fake.requires_grad
    for name, part in (("generator", G), ("discriminator", "D")):
        state = torch.load(run / f"{name}.pth", weights_only=True)
        exactly({**state}, {**checkpoint_of(run)["parts"][part]})


def test_mnist_cgan_labels(monkeypatch, capsys):
    generate = ["--generate", str(whole(mnist_cgan)[0] / "checkpoint.pt")]
    nets = mnist_cgan.Discriminator, mnist_cgan.Generator
    by_D, by_G = (seen_by(monkeypatch, net) for net in nets)
    train(mnist_cgan, f"{STEPS} --max-steps 1")
    (real, theirs, _), *fakes = by_D
    images, labels = mnist_cgan.load_images("cpu")
    for image, label in zip(real, theirs):
        assert label == labels[(images == image).flatten(1).all(1)][0]
    for (image, digits, _), (_, asked, made) in zip(fakes, by_G):
        assert image.equal(made) and digits.equal(asked) and len(asked) == 128
    assert not fakes[0][1].equal(fakes[1][1])
    mnist_cgan.main([*generate, "--digits", "2026", "--n", "2"])
    mnist_cgan.main(generate)
    asked = [labels.tolist() for _, labels, _ in by_G[-2:]]
    assert asked == [[2, 0, 2, 6, 2, 0, 2, 6], [*range(10)]]
    for bad in ([*generate, "--digits=x"], [*generate, "--digits=7.5"], ["--digits=7"]):
        refused(capsys, "--digits", mnist_cgan.main, bad)


def test_aae_mnist_reparameterization_images_and_interval():
    mu = torch.full((50_000, 1), 3.0, requires_grad=True)
    logvar = torch.full((50_000, 1), math.log(0.25), requires_grad=True)
    z = aae_mnist.reparameterization(mu, logvar)
    assert (z.mean().item(), z.std().item()) == near((3, 0.5), rel=0.02)
    z.sum().backward()
    assert mu.grad.unique().tolist() == [1] and logvar.grad.abs().max() > 0
    images, _ = aae_mnist.load_images(32, "cpu")
    assert images.shape == (300, 1, 32, 32) and images.min() == -1 == -images.max()
    train(aae_mnist, f"{STEPS} --max-steps 4 --sample-interval 2 --out run")
    assert {x.stem[-2:] for x in Path("run/samples").iterdir()} == {"02", "04"}


# How good it is.


def test_the_judge_that_is_shipped():
    score, (images, labels) = JUDGE(*DIGITS[False]), (x[:10_000] for x in DIGITS[True])
    assert score["right"] >= 0.985 and score["worst"] > 0.95 and score["fd"] < 0.1
    text = (common.DATA / "README.md").read_text(encoding="utf-8")
    score, stated = JUDGE(images), float(re.search(r"fd (\d+\.\d+)", text)[1])
    assert score["fd"] == near(stated, abs=0.05)
    counts = (labels.bincount() / len(labels)).tolist()
    assert score["shares"] == near(counts, abs=0.01)
    assert (common.DATA / "judge.pt").stat().st_size <= 250_000


def test_the_judge_tells_good_from_bad():
    images, labels = (x[:2000] for x in DIGITS[True])
    good, one_digit = JUDGE(images)["fd"], JUDGE(images[labels == 1])
    assert JUDGE(images, test_images=images)["fd"] < 1e-3 < good < 8
    assert one_digit["shares"][1] > 0.97 and sum(one_digit["shares"]) < 1.001
    noise, one_image = torch.rand_like(images) * 2 - 1, images[:1].repeat(2000, 1, 1, 1)
    bad = [one_digit, *map(JUDGE, (noise, one_image, images / 2 + 0.5))]
    assert all(score["fd"] > 10 * good for score in bad)
    assert JUDGE(images, (labels + 1) % 10)["right"] < 0.05
    mixed = torch.where(labels == 3, 5, labels)[labels != 5]  # no 3 is right
    score = JUDGE(images[labels != 5], mixed)
    assert score["worst"] < 0.05 and score["right"] > 0.8


def test_scores_ask_the_judge():
    images, labels = (x[:1000] for x in DIGITS[True])
    unit, fd = images / 2 + 0.5, near(JUDGE(images)["fd"], rel=1e-3)
    assert mnist_gan.score(lambda _: images.flatten(1), 1, "cpu", False)["fd"] == fd
    assert mnist_gan.score(lambda _: unit.flatten(1), 1, "cpu", True)["fd"] == fd
    assert mnist_bn_gan.score(lambda _: images, 1, "cpu")["fd"] == fd
    one = torch.cat([images[labels == digit][2:3] for digit in range(10)])
    assert mnist_cgan.score(lambda _, x: one[x], 1, "cpu")["worst"] == 1
    images, codes = aae_mnist.load_images(32, "cpu")[0], torch.randn(300, 10)
    score = aae_mnist.score(lambda _: codes + 3, lambda _: images, images)
    assert [*score.values()] == [0, near(3 * 10**0.5, rel=0.1), near(0, abs=1e-3)]


# Where it runs: on a GPU, in a notebook, as a program.


def move(net, device):
    """nn.Module.to, which cannot move fake tensors."""
    for part in net.modules():
        for key, x in part._parameters.items():
            part._parameters[key] = nn.Parameter(x.detach().to(device))
        part._buffers.update({k: x.to(device) for k, x in part._buffers.items()})
    return net


@torch.no_grad()
def check_on_a_gpu():
    """With tensors without numbers, which say when two devices meet. To collect them
    as garbage can abort Python: so this is a program of its own."""
    gpu = torch.device("cuda", 0)
    gc.disable()
    for owner, name, new in [
        (torch.accelerator, "current_accelerator", lambda *_, **__: gpu),
        (torch.autograd, "grad", lambda _, x, **__: [torch.zeros_like(x)]),
        (torch, "cov", lambda x: x @ x.T),
        (torch.Tensor, "item", lambda _: 0.5),
        (torch.Tensor, "tolist", lambda x: [0.1] * len(x)),
        (torch.Tensor, "bincount", lambda x, minlength: x.new_ones(minlength)),
        (nn.Module, "to", move),
    ]:
        setattr(owner, name, new)
    nothing = {torch.optim.Adam: "step", torch.optim.AdamW: "step", common.Run: "save"}
    nothing |= {torch.Tensor: "backward", common: "Figure SummaryWriter write"}
    nothing |= dict.fromkeys(SCRIPTS, "save_image make_grid draw")
    for owner, name in ((x, name) for x in nothing for name in nothing[x].split()):
        setattr(owner, name, MagicMock())
    with FakeTensorMode(allow_non_fake_inputs=True):
        for script in SCRIPTS:
            run = train(script, f"{SCRIPTS[script][0]} --max-steps 2", device="cuda")
            nets = {k: x for k, x in run.parts.items() if isinstance(x, nn.Module)}
            weights = [x for net in nets.values() for x in net.state_dict().values()]
            assert {x.device for x in weights} == {gpu}
            if script is aae_mnist:
                images = torch.zeros((9, 1, 32, 32), device=gpu)
                assert script.score(nets["encoder"], nets["decoder"], images)["fd"] > 0
            elif script in (mnist_gan, mnist_bn_gan):
                rest = [100, gpu, False] if script is mnist_gan else [100, gpu]
                assert script.score(nets["G"], *rest)["fd"] > 0
    print("done", flush=True)
    TEMPORARY.cleanup()
    os._exit(0)


@each_script
def test_a_script_in_a_cell(script, monkeypatch):
    make_parser = common.make_parser

    def short(*words, **sizes):
        parser = make_parser(*words, **sizes)
        parser.set_defaults(max_steps=2, device="cpu")
        return parser

    monkeypatch.setattr(common, "make_parser", short)
    monkeypatch.setattr(common.Run, "export", MagicMock(side_effect=Done))
    monkeypatch.setattr(torch, "set_num_threads", MagicMock())
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "k.json"])
    with pytest.raises(Done):
        code = compile(source_of(script), "cell", "exec")
        exec(code, {"__name__": "__main__"})  # noqa: S102
    assert checkpoint_of(f"runs/{script.__name__}/1")["run"]["step"] == 2
    assert source_of(script).count("\n# %% ") >= 3


@each_script
def test_help_is_short_plain_and_whole(script):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit):
        script.main(["--help"])
    out.seek(0)
    text, rare = out.read(), "script checkpoint out resume generate max_steps digits"
    assert len(script.__doc__.splitlines()) <= 20 and script.__doc__.strip() in text
    assert len(text.splitlines()) <= 50
    about = {x.split()[0].strip(","): x for x in re.split(r"\n  --", text)}
    for name, value in vars(script.parse([])).items():
        if name not in rare.split():
            assert f"(default: {value})" in about[name.replace("_", "-")]


# What each script has to name: sections, exercises and questions of its document.
SECTIONS = """linear_gan: 2 - Create the data; 3 - Define the models; \
4 - Define the function for discriminator updates; 5 - Perform generator updates; \
6 - Initialize the parameters; 7 - Compute the losses; \
8 - Display generated distributions; 9 - Display the losses; \
10 - Create the training function; 11 - Train the model
mnist_gan: GAN的训练; GAN的损失函数; 实现生成器代码; 实现判别器代码; 优化器; 二元交叉熵损失; \
实现train_discriminator和train_generator; 定义主函数; 执行main()函数; 思考题 1; 思考题 2; 思考题 3
mnist_bn_gan: 定义生成器和判别器模型; 训练过程; 为什么先训练判别器
mnist_cgan: 代码示例
curve_gan: 3.2.1; 3.2.2; 3.3.1; 3.3.2; 3.3.3; 3.4.1; 3.4.2; 练习 3.1; 练习 3.2; 练习 3.3
numbers_gan: 3.5.1; 3.5.2; 3.5.3; 3.5.4; listing 3.11; 练习 3.4
aae_mnist: 实现一个简单的GAN"""


@each_script
def test_sections_exercises_and_listings_are_named(script):
    source, found = source_of(script), set()
    pattern = r"([Ll]isting|练习)s? ((?:3\.\d+(?:, | and | to )?)+)"
    for word, rest in re.findall(pattern, source):
        n = [int(x) for x in re.findall(r"3\.(\d+)", rest)]
        n += range(n[0], n[-1]) if " to " in rest else []
        found |= {f"{word.lower()} 3.{x}" for x in n}
    table = dict(line.split(": ", 1) for line in SECTIONS.splitlines())
    wanted = table[script.__name__].split("; ")
    wanted += [f"listing 3.{x}" for x in range(1, 11) if script is curve_gan]
    assert not [x for x in wanted if x not in found and x not in source]
    to_dos = re.findall(r"# [Tt]o-do (\d+)", source)
    assert [int(x) for x in to_dos] == [*range(1, 19 if script is mnist_gan else 1)]


def test_the_pages_name_what_there_is():
    names, scripts = ["README.md", "README.zh-CN.md"], {x.__name__: x for x in SCRIPTS}
    pages, found = [(HERE / x).read_text(encoding="utf-8") for x in names], []
    for page, other in zip(pages, names[::-1]):
        assert other in page.splitlines()[0]
        for name, options in re.findall(r"python3? (\w+)\.py([^\n`|<&#]*)", page):
            known = vars(scripts[name].parse([]))
            for option in re.findall(r" --([\w-]+)", options):
                assert option.replace("-", "_") in known, (name, option)
        for path in re.findall(r"\]\((?!http|#)([\w./-]+)\)", page):
            assert (HERE / path).exists(), path
        blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        (loop,) = [block for block in blocks if "run.minibatches" in block]
        lines = iter(line.strip() for line in source_of(mnist_gan).splitlines())
        assert all(line.strip() in lines for line in loop.splitlines())  # in this order
        code = re.findall(r"```\w+\n(.*?)```|`(python[^`]*|[\w./-]+)`", page, re.DOTALL)
        code = sorted(re.sub(r" *#.*", "", "".join(x)) for x in code)
        numbers = re.findall(r"\d+(?:[.,]\d+)*", page.partition("\n")[2])
        found.append((code, sorted(numbers)))
    assert found[0][0] == found[1][0] and found[0][1] == found[1][1]


@each([*SCRIPTS, "import", "gpu"])
def test_a_program_leaves_a_checkpoint_from_which_it_goes_on(script, programs):
    result = programs[script].result()
    assert (result.returncode, result.stderr) == (0, b"")
    assert (b"done" in result.stdout) == (script == "gpu")
    if script in SCRIPTS:
        shutil.copytree(f"{TEMPORARY.name}/program/{script.__name__}", "run")
        run = train(script, "--resume run/checkpoint.pt --max-steps 2")
        assert run.step == checkpoint_of("run")["run"]["step"] == 4
