"""Runs every script for a few steps and looks at what came out."""

import contextlib
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
    aae_mnist: (f"{STEPS} --sample-interval 3 --adversarial 0.25", [(10,)], (1, 32, 32))
    + ("average_decoder", "encoder+decoder discriminator"),
}
FILES = "samples losses.png training.gif metrics.json generator.pt2 checkpoint.pt "
MORE = {linear_gan: "data.png", curve_gan: "data.png new_data.png"}
MORE |= {mnist_bn_gan: "generator.pth discriminator.pth", numbers_gan: "new_data.png"}
MORE |= {aae_mnist: "reconstructions.png walk.png"}
# One process: what an import changes, each script as a program, tensors of a GPU.
PROGRAMS = """
import gc, runpy, sys, warnings, torch, torch.utils.tensorboard, PIL.Image
def state():
    streams = sys.stdout, sys.stderr, sys.excepthook
    return streams, torch.get_num_threads(), torch.initial_seed(), warnings.filters[:]
before = state()
import linear_gan, curve_gan, numbers_gan
assert state() == before and "torchvision" not in sys.modules  # it takes seconds
import torchvision.transforms.functional
before = state()
import mnist_gan, mnist_bn_gan, mnist_cgan, aae_mnist
assert state() == before and "matplotlib.pyplot" not in sys.modules
paths, sys.argv[1:] = sys.argv[1:], ["--max-steps", "2", "--device", "cpu"]
for path in paths:
    runpy.run_path(path, run_name="__main__")
import test_smoke
gc.disable()  # to free tensors without numbers can crash Python
warnings.simplefilter("ignore")
test_smoke.check_on_a_gpu()"""

torch.set_num_threads(1)
HERE, CPU = Path(__file__).resolve().parent, ["--device", "cpu"]
TEMPORARY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
# The scripts get 300 images (steps of 128, 128 and 44), the judge 1,000.
LOAD_MNIST, JUDGE, RUN_INIT = common.load_mnist, common.judge, common.Run.__init__
MNIST = {train: [x[:10_000] for x in LOAD_MNIST(train)] for train in (True, False)}
DIGITS = {k: (x.unsqueeze(1) / 127.5 - 1, labels) for k, (x, labels) in MNIST.items()}
common.load_mnist = lambda train=True: tuple(x[:300] for x in MNIST[train])
few = lambda x: (x[0], x[1].repeat(10))  # as if it had judged 10,000
common.judge = lambda *images: few(JUDGE(*(x[:1000] for x in images)))

near, exactly = pytest.approx, partial(torch.testing.assert_close, rtol=0, atol=0)
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda x: x.__name__)
source_of = lambda script: Path(script.__file__).read_text(encoding="utf-8")
checkpoint_of = lambda run: torch.load(Path(run, "checkpoint.pt"), weights_only=True)
events_of = lambda run: EventAccumulator(str(run)).Reload()
scalars = lambda run, name: {x.step: x.value for x in events_of(run).Scalars(name)}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that runs/ starts empty


@pytest.fixture(autouse=True, scope="session")
def programs():
    """PROGRAMS, beside the tests, on all of MNIST, where the console knows only ASCII."""
    env = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # as in Jupyter
    env |= {"PYTHONPATH": str(HERE), "TMPDIR": TEMPORARY.name, "OMP_NUM_THREADS": "2"}
    env |= {"PYTHONIOENCODING": "ascii"}
    how = {"env": os.environ | env, "cwd": TEMPORARY.name, "text": True}
    how |= dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    words = [sys.executable, "-c", PROGRAMS, *(x.__file__ for x in SCRIPTS)]
    with subprocess.Popen(words, **how) as process:
        yield process
        process.kill()  # if no test has waited for it


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
def whole(script):  # its one whole run, of two epochs: (folder, metrics, output, Run)
    folder, out = Path(TEMPORARY.name, script.__name__), io.StringIO()
    with contextlib.redirect_stdout(out):
        options = f"{SCRIPTS[script][0]} --epochs 2 --out {folder}"
        run, metrics = train(script, options, ends=False)
    return folder, metrics, out.getvalue(), run


def refused(capsys, word, call, *args, status=2):  # in one line with this word
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call(*args)
    said, code = capsys.readouterr().err, stop.value.code
    if isinstance(code, str):  # what Python itself prints, with status 1
        said, code = said + code, 1
    (message,) = [x for x in said.strip().splitlines() if not x.startswith("usage: ")]
    assert code == status and word in message and "rr" in message


def contents(run):  # {name: bytes} of its files, but not TensorBoard's
    files = [x for x in Path(run).rglob("*.*") if "events" not in x.name]
    return {x.relative_to(run): x.read_bytes() for x in files if x.is_file()}


@each_script
def test_a_run_leaves_what_it_should(script):
    run, metrics, out, _ = whole(script)
    assert "--generate" in out and all(f"\n{x}: " in out for x in metrics["score"])
    named = [Path(x) for x in re.findall(r"\S+\.(?:png|gif)", out) if Path(x).exists()]
    names = {path.name for path in run.iterdir() if "events" not in path.name}
    assert names == {*(FILES + MORE.get(script, "")).split()}
    pictures = sorted((run / "samples").iterdir())
    assert named == [pictures[-1], run / "losses.png", run / "training.gif"]
    frames = {path.read_bytes() for path in pictures}  # the GIF keeps one of the same
    assert Image.open(run / "training.gif").n_frames == len(frames)
    assert json.loads((run / "metrics.json").read_bytes())["score"] == metrics["score"]
    steps = {curve_gan: [3, 6], numbers_gan: [1, 2]}.get(script, [3, 6])
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

    with monkeypatch.context() as patch:
        patch.setattr(common.Run, "log", interrupted)
        options = f"{SCRIPTS[script][0]} --epochs 2 --out run"
        refused(capsys, "--resume run", train, script, options, status=1)
    (events,) = Path("run").glob("events*")  # TensorBoard sorts them by name, in which
    events.rename("run/events.out.tfevents.1")  # it has the second: 1 is before now
    train(script, "--resume run/checkpoint.pt")
    a, b = checkpoint_of(run), checkpoint_of("run")
    exactly([a["parts"], a["random"]], [b["parts"], b["random"]])
    assert a["args"] == b["args"] and a["run"]["history"] == b["run"]["history"]
    once, twice = (events_of(x).Scalars("loss_G") for x in (run, "run"))
    assert [x.step for x in once] == [x.step for x in twice]  # one of each
    assert contents(run / "samples") == contents("run/samples")
    if script is mnist_gan:  # it is finished: now without its pictures
        shutil.rmtree("run/samples")
        Path("run/samples").mkdir()
        Path("run/samples/._epoch_00001.png").write_text("left by macOS")
        score = script.main(["--resume", "run/checkpoint.pt", *CPU])["score"]
        assert score == metrics["score"]


@each_script
def test_document_undoes_every_departure_also_in_a_cell(script, monkeypatch):
    """In a notebook, there is no __file__, and the command line is the kernel's."""
    args, default = script.parse(["--document"]), script.parse([])
    for name, value in script.DOCUMENT.items():
        assert getattr(args, name) == value != getattr(default, name), name
    make_parser = common.make_parser

    def short(*words, **sizes):
        parser = make_parser(*words, **sizes)
        parser.set_defaults(max_steps=6, device="cpu", document=True)
        return parser

    monkeypatch.setattr(common, "make_parser", short)
    monkeypatch.setattr(common.Run, "export", MagicMock(side_effect=Done))
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "k.json"])
    with pytest.raises(Done):
        exec(source_of(script), {"__name__": "__main__"})  # noqa: S102
    assert source_of(script).count("\n# %% ") >= 3
    saved = checkpoint_of(run := Path("runs", script.__name__, "1"))
    pictures = sorted(x.name for x in (run / "samples").iterdir())
    assert saved["run"]["step"] == 6 and "step_000006" in pictures[-1]
    for name in [x for x in saved["parts"] if x.startswith("average_")]:
        exactly(saved["parts"][name], saved["parts"][name[8:]])  # there is no average


def arguments(**given):  # as parse returns them, of a script named x
    some = {"script": "x", "device": "cpu", "epochs": 1, "batch_size": 3, "seed": 0}
    some |= dict.fromkeys(("resume", "out", "max_steps", "checkpoint", "generate"))
    return Namespace(**some | given)


def test_what_is_logged_is_what_was_lost_on_shuffled_minibatches():
    data, seen = torch.arange(11), []
    with common.Run(arguments(epochs=6, out=Path("run"))) as run:
        for _ in run.epochs(every=4):  # of four steps each; 1, 4 and 6 are due
            for a, b in run.minibatches(data, -data):
                assert len(a) == (2 if run.step % 4 == 0 else 3) and a.equal(-b)
                seen += a.tolist()
                run.log(loss=torch.tensor(float(run.step)))
                if run.step % 5 == 0:
                    run.report()
    wanted = {4: 2.5, 5: 5, 10: 8, 15: 13, 16: 16, 20: 18.5, 24: 22.5}
    assert run.history["loss"] == scalars("run", "loss") == near(wanted)
    assert sorted(seen[:11]) == data.tolist() != seen[:11] != seen[11:22]


def test_errors_are_one_line_only_if_they_are_understood(capsys):
    net = nn.Linear(3, 2)

    def fail(error, epochs, loss=1.0):
        with common.Run(arguments(epochs=epochs), net=net) as run:
            for _ in run.epochs():
                run.log(loss=loss)
            raise error

    for epochs, word in ((0, "nothing is saved"), (1, "--resume runs")):
        refused(capsys, word, fail, KeyboardInterrupt(), epochs, status=1)
        refused(capsys, word, fail, OSError(28, "No space left"), epochs, status=1)
        for error in (ValueError("a slip"), OSError(13, "Permission denied")):
            with pytest.raises(type(error)):
                fail(error, epochs)
            assert word in "".join(getattr(error, "__notes__", capsys.readouterr()))
    refused(capsys, "loss is nan", fail, None, 1, math.nan, status=1)
    nn.init.constant_(net.bias, math.nan)
    refused(capsys, "NaN", fail, ValueError("of what NaN does"), 1, status=1)


def test_files_are_written_whole_or_not_at_all(monkeypatch, capsys):
    shutil.copytree(whole(linear_gan)[0], "run")
    before, write_bytes = contents("run"), Path.write_bytes

    def half(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    options = ["--resume", "run/checkpoint.pt", "--epochs", "3", *CPU]
    refused(capsys, "No space left", linear_gan.main, options, status=1)
    after = contents("run")
    assert before.items() <= after.items()
    assert [x.suffix for x in after.keys() - before] == [".png"]  # of epoch 3


def test_run_folders_are_numbered_and_never_reused(capsys):
    new = lambda **given: common.new_folder(arguments(**given)).as_posix()
    assert [new() for _ in range(3)] == ["runs/x/1", "runs/x/2", "runs/x/3"]
    assert new(out=Path("a/b")) == new(resume=Path("a/b/checkpoint.pt")) == "a/b"
    Path("runs/x/2/samples").rmdir()
    assert new() == "runs/x/4"  # the rest of 2 is still somebody's
    refused(capsys, "empty", lambda: new(out=Path("a/b")), status=1)
    Path("a/samples").write_text("")
    refused(capsys, "cannot", lambda: new(out=Path("a/samples/below")), status=1)
    refused(capsys, "cannot", lambda: new(resume=Path("a/checkpoint.pt")), status=1)
    shutil.rmtree("runs")
    with contextlib.suppress(OSError):  # where Windows allows no links
        Path("runs").symlink_to("nowhere")
        refused(capsys, "cannot", new, status=1)


@each_script
def test_a_saved_generator_is_used_again(script, monkeypatch, capsys):
    (run, *_), (_, shapes, result, saved, _) = whole(script), SCRIPTS[script]
    with (run / "generator.pt2").open("rb") as file:
        program = torch.export.load(file).module()
    state, net = checkpoint_of(run), whole(script)[3].parts[saved].eval()
    for n in (1, 9):
        x = [torch.randn(n, *x) if x else torch.arange(n) % 10 for x in shapes]
        assert program(*x).shape == (n, *result)
        assert torch.allclose(program(*x).flatten(1), net(*x).flatten(1), atol=1e-5)
    pictures, path = [], str(run / "checkpoint.pt")
    for key, x in state["parts"][saved].items():
        state["parts"][saved][key] = x.flip(0) if x.dim() else x
    torch.save(state, "other.pt")
    for what in (path, path, "other.pt"):
        script.main(["--generate", what, "--seed", "3", "--n", "1"])
        out = Path(f"runs/{script.__name__}/{len(pictures) + 1}/samples/generated.png")
        assert str(out) in capsys.readouterr().out
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


# What stands in the message: the options, of linear_gan.py where none is named.
BAD = """--batch-size: --batch-size 0; --batch-size 1001; RESUME --batch-size 5
--: --lr-D 0; --lr-D nan; RESUME --lr-D 0.5; GENERATE --lr-D=1; --beta1 1; --beta1 nan
--: --epochs -1; GENERATE --epochs 2; --seed -1; RESUME --seed 5; --device tpu
--n: --n 3; GENERATE --n 0; RESUME --n 3
--: --sead 1; RESUME --out new; RESUME GENERATE
no checkpoint.pt: --resume no.pt; --generate cut.pt; --resume .; --resume code.pt
not empty: --out FOLDER; GENERATE --out FOLDER
cannot write: --out cut.pt; GENERATE --out cut.pt/below
linear_gan.py: mnist_gan RESUME; aae_mnist GENERATE
--batch-size: mnist_bn_gan --batch-size 1; curve_gan --batch-size 2049
--: numbers_gan --remainder 5; mnist_cgan --digits=7; mnist_cgan --digits=7.5"""


def test_bad_input_is_refused_in_one_line(capsys, monkeypatch, tmp_path):
    run, scripts = whole(linear_gan)[0], {x.__name__: x for x in SCRIPTS}
    before, path = contents(run), run / "checkpoint.pt"
    Path("cut.pt").write_bytes(path.read_bytes()[:5000])
    torch.save({"args": {"script": "linear_gan"}, "run": Namespace()}, "code.pt")
    names = {"RESUME": f"--resume {path}", "GENERATE": f"--generate {path}"}
    table = re.sub("[A-Z]{2,}", lambda x: str((names | {"FOLDER": run})[x[0]]), BAD)
    for word, _, options in (line.partition(": ") for line in table.splitlines()):
        status = 1 if word in ("not empty", "cannot write") else 2
        for bad in map(str.split, options.split("; ")):
            script = scripts[bad.pop(0)] if bad[0] in scripts else linear_gan
            refused(capsys, word, script.main, bad, status=status)
    assert not any(Path(x).exists() for x in ("runs", "new"))
    assert contents(run) == before
    archive = Path("MNIST/raw/t10k-images-idx3-ubyte.gz")  # a damaged one
    archive.parent.mkdir(parents=True)
    archive.write_bytes(Path(common.DATA, archive).read_bytes()[:1000])
    monkeypatch.setattr(common, "DATA", tmp_path)
    refused(capsys, archive.name, LOAD_MNIST, False, status=1)


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
    before = optimizer.register_optimizer_step_pre_hook(look)
    after = optimizer.register_optimizer_step_post_hook(look)
    run = train(script, f"{SCRIPTS[script][0]} --max-steps 1")
    before.remove()
    after.remove()
    pairs = itertools.pairwise(weights)
    moves = ["+".join(k for k in x if x[k] != y[k]) for x, y in pairs]
    assert moves[::2] == SCRIPTS[script][4].split() and not any(moves[1::2])
    a, b, c = -math.log(0.9), -math.log(1 - 0.8), -math.log(0.7)  # real, fake, G's
    wanted = (a + b) / (2 if script in (linear_gan, mnist_bn_gan) else 1), c
    if script is aae_mnist:  # G comes first
        wanted = (-math.log(0.8) - math.log(0.3)) / 2, 0.25 * a + 0.75 * 2
    losses = [run.history[name][1] for name in ("loss_D", "loss_G")]
    assert len(said) == 3 and losses == near(wanted, rel=1e-4)


def test_the_average_and_distances():
    net, average = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    for step in range(1, 201):
        nn.init.constant_(net.weight, step <= 180)
        common.update_average(average, net, step)
    wanted = math.comb(31, 14) / math.comb(33, 14)  # of 20 that count, 18 had 1
    assert average.weight.item() == near(wanted, rel=1e-3)
    mean, cov = (points := torch.randn(2000, 3)).mean(0), points.T.cov()
    wide = mean + torch.tensor([3.0, 0.0, 4.0]), 4 * cov  # twice as wide, and shifted
    wanted = cov.trace().item() + 25  # tr C + 4 tr C - 2 * 2 tr C, and 3^2 + 4^2
    assert common.frechet_distance(points, *wide) == near(wanted, rel=1e-4)


def test_a_run_that_ends_early_says_why_and_what_to_raise(monkeypatch, capsys):
    said = lambda: capsys.readouterr().out
    stop = curve_gan.EarlyStop(3).stop
    stops = [stop(gdif) for gdif in (5, 4, 6, 3, 3, 4, 2, 2, 9, 9)]
    assert stops == [False] * 9 + [True]  # an equal gdif is no improvement
    gaps, few = iter((3, 1, 3, 1, 2, 4, 5, 6, 7, 8)), SCRIPTS[curve_gan][0]
    monkeypatch.setattr(curve_gan, "gap", lambda *_, **__: next(gaps))
    two = train(curve_gan, f"{few} --epochs 2").parts["average_G"].state_dict()
    assert train(curve_gan, f"{few} --patience 3 --epochs 9 --out run").epoch == 5
    assert (
        "epoch 5: no better since 2 (" in (line := said())
        and line.count("epoch 2\n") == 2
    )
    exactly([*checkpoint_of("run")["parts"]["best_G"].values()][:6], [*two.values()])
    last = "--resume run/checkpoint.pt"
    assert train(curve_gan, last).epoch == 6 and "raise --patience" in said()
    assert train(curve_gan, f"{last} --patience 6").epoch == 8
    monkeypatch.setattr(numbers_gan, "variation", lambda *_: 0.5)
    assert train(numbers_gan, "--patience 1 --out still").epoch == 200  # second look
    assert train(numbers_gan, "--resume still/checkpoint.pt --patience 2").epoch == 300


def test_curve_gan_and_numbers_gan_tell_good_from_collapsed():
    data, good = curve_gan.create_data("sine"), curve_gan.create_data("sine", 4096)
    gap = lambda x: curve_gan.gap("quality", **curve_gan.quality(x, "sine", data))
    off = good + torch.tensor([0, 0.1 * data[:, 1].std()])
    outside = torch.where(good[:, :1] > 4.5, good + 2 * math.pi, good)
    assert gap(good) < 0.6 and gap(off) == near(2, rel=0.01)
    assert gap(good[good[:, 0] < 0]) > 1 and gap(outside) > 2
    to_units = whole(curve_gan)[3].parts["best_G"][1]  # data: 1.08^x, x from 0 to 50
    ends = to_units(torch.tensor([[0.0, 0.0], [2.0, 2.0]])).flatten().tolist()
    assert ends == near([25, 11.9, 25 + 14.4, 11.9 + 12], rel=0.1)  # mean and deviation
    good = numbers_gan.int_to_onehot(torch.arange(0, 100, 5).repeat(500))
    # distance, variation, then silent, fit, appear, rarest, commonest
    for data, *wanted in [
        (good, 0, 0, 0, 1, 1, 1, 1),
        (good[:1].repeat(10_000, 1), 0, 0.95, 0, 1, 0.05, 0, 20),  # it fools distance
        (good.roll(1, dims=1), 1, 1, 0, 0, 0, 0, 0),
        (torch.cat([good, good * 0]), 12.5, 0.5, 0.5, 1, 1, 1, 1),
    ]:
        looks = [f(data, 5, 0) for f in (numbers_gan.distance, numbers_gan.variation)]
        score = numbers_gan.score(data, 5, 0).values()
        assert [*looks, *score] == near(wanted, abs=1e-5)


def test_aae_mnist_reparameterization():
    mu = torch.full((50_000, 1), 3.0, requires_grad=True)
    z = aae_mnist.reparameterization(mu, torch.full_like(mu, math.log(0.25)))
    assert (z.mean().item(), z.std().item()) == near((3, 0.5), rel=0.02)
    assert torch.autograd.grad(z.sum(), mu)[0].unique().tolist() == [1]


def test_the_judge_that_is_shipped_tells_good_from_bad(monkeypatch):
    monkeypatch.setattr(common, "judge", JUDGE)
    (tests, labels), (fd, read) = DIGITS[False], JUDGE(DIGITS[False][0])
    assert (read == labels).double().mean() >= 0.985 and fd < 0.1
    text = (common.DATA / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"fd (\d+\.\d+)", text)[1])  # of 10,000 training images
    images, labels = DIGITS[True]
    score = mnist_gan.score(lambda _: images / 2 + 0.5, 100, "cpu", unit_range=True)
    shares = (labels.bincount() / 10_000).tolist()
    assert [score["fd"], *score["shares"]] == near([stated, *shares], rel=0.03)
    few = images[:1000]
    assert JUDGE(few, few)[0] < 1e-3 < (good := JUDGE(few)[0]) < 12
    noise, same = torch.rand_like(few) * 2 - 1, few[:1].expand(999, 1, 28, 28)
    bad = map(JUDGE, (noise, same, few / 2 + 0.5, images[labels == 1]))
    assert all(fd > 10 * good for fd, _ in bad)
    one_each = tests[[(read == x).nonzero()[0].item() for x in range(10)]]
    sevens = mnist_cgan.score(lambda _, y: one_each[y.where(y != 1, 7)], 100, "cpu")
    assert [sevens["right"], sevens["worst"]] == near([0.9, 0])


def move(net, device):  # as nn.Module.to, which cannot move fake tensors
    for part in net.modules():
        for key, x in part._parameters.items():
            part._parameters[key] = nn.Parameter(x.to(device))
        part._buffers.update({k: x.to(device) for k, x in part._buffers.items()})
    return net


@torch.no_grad()
def check_on_a_gpu():
    """Tensors without numbers say when devices meet. It ends a program: see PROGRAMS."""
    gpu = torch.device("cuda", 0)
    for owner, name, new in [
        (torch.accelerator, "current_accelerator", lambda *_, **__: gpu),
        (torch.autograd, "grad", lambda _, x, **__: [torch.zeros_like(x)]),
        (torch.Tensor, "cov", lambda x: x @ x.T),
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
            run = train(script, f"{SCRIPTS[script][0]} --max-steps 1", device="cuda")
            nets = nn.ModuleList(x for x in run.parts.values() if hasattr(x, "eval"))
            assert {x.device for x in nets.state_dict().values()} == {gpu}
        assert common.judge(torch.zeros((9, 1, 28, 28), device=gpu))[0] > 0
    print("done", flush=True)
    os._exit(0)


# What each script has to name: sections, exercises and questions of its document.
SECTIONS = """linear_gan: 2 - C; 3 - D; 4 - D; 5 - P; 6 - I; 7 - C; 8 - D; 9 - D; 10 - C; 11 - T
mnist_gan: GAN的训练; GAN的损失函数; 实现生成器代码; 实现判别器代码; 优化器; 二元交叉熵损失; \
实现train_discriminator和train_generator; 定义主函数; 执行main()函数; 思考题 1; 思考题 2; 思考题 3
mnist_bn_gan: 定义生成器和判别器模型; 训练过程; 为什么先训练判别器
mnist_cgan: 代码示例
curve_gan: 3.2.1; 3.2.2; 3.3.1; 3.3.2; 3.3.3; 3.4.1; 3.4.2; listing 3.10; 练习 3.1, 3.2, 3.3
numbers_gan: 3.5.1; 3.5.2; 3.5.3; 3.5.4; Listing 3.11; 练习 3.4
aae_mnist: 实现一个简单的GAN"""


@each_script
def test_help_is_plain_and_sections_exercises_and_listings_are_named(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text, about, source = capsys.readouterr().out, script.__doc__, source_of(script)
    assert len(about.splitlines()) <= 20 and about.strip() in text and text.isascii()
    table = dict(line.split(": ", 1) for line in SECTIONS.splitlines())
    wanted = table[script.__name__].split("; ")
    wanted += [f"isting 3.{x}:" for x in range(1, 10) if script is curve_gan]
    assert not [x for x in wanted if x not in source]
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
    assert found[0] == found[1]


def test_programs_leave_checkpoints_from_which_they_go_on(programs):
    output, errors = programs.communicate()
    assert (programs.returncode, errors, output[-5:]) == (0, "", "done\n")
    for script in SCRIPTS:
        run = Path(TEMPORARY.name, "runs", script.__name__, "1")
        options = f"--resume {run / 'checkpoint.pt'} --max-steps 2"
        assert train(script, options).step == checkpoint_of(run)["run"]["step"] == 4
