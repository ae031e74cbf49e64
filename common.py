"""What the scripts share, none of it about GANs: options, files, the books of a run."""

import argparse
import gzip
import inspect
import io
import json
import math
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from matplotlib.figure import Figure  # not pyplot, which may open windows
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

DATA = Path(__file__).resolve().parent / "data"


# %% Options
class Help(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, and the description as it is written."""


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def positive_float(text):
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def fraction(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def seed(text):
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 2^63")
    return value


def make_parser(script, description, epochs, batch_size):
    """Return an ArgumentParser with the options that all scripts have."""
    parser = argparse.ArgumentParser(
        f"{script}.py",
        usage=f"{script}.py [options]",
        description=description,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.set_defaults(script=script, command=f"python {script}.py", checkpoint=None)
    parser.set_defaults(max_steps=None, out=None, resume=None, generate=None)
    devices = ["cpu"]
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if gpu:
        devices.append(gpu.type)
    none = argparse.SUPPRESS  # no default that --help could show
    size = positive_int
    add = parser.add_argument
    add("--epochs", type=size, default=epochs, metavar="N", help="passes over the data")
    of = "examples in a minibatch"
    add("--batch-size", type=size, default=batch_size, metavar="N", help=of)
    other = "another one makes other random numbers"
    add("--seed", type=seed, default=0, metavar="N", help=other)
    add("--device", choices=devices, default=devices[-1], help="where to compute")
    quick = "a quick try: stop after N steps"
    add("--max-steps", type=size, default=none, metavar="N", help=quick)
    where = f"write here, not to runs/{script}/1, 2, ..."
    add("--out", type=Path, default=none, metavar="DIR", help=where)
    go_on = "go on from this checkpoint.pt"
    add("--resume", type=Path, default=none, metavar="FILE", help=go_on)
    sample = "do not train: draw samples by this checkpoint.pt"
    add("--generate", type=Path, default=none, metavar="FILE", help=sample)
    add("--document", action="store_true", help="take the document's settings")
    return parser


WITH_RESUME = ["--resume", "--device", "--epochs", "--max-steps", "--patience"]
WITH_GENERATE = ["--generate", "--digits", "--n", "--out", "--seed"]
ONLY_WITH_GENERATE = ["--digits", "--n"]


def parse(parser, argv, document, largest_batch=60_000, smallest_batch=1):
    """Options: those given, else the checkpoint's, else --document's, else defaults.

    argv: words or a string; None: the command line, but only if the script was
    started as a program. In a notebook or a console it is not the script's.
    """
    caller = inspect.currentframe().f_back.f_code.co_filename  # the script's file
    if isinstance(argv, str):
        argv = shlex.split(argv)
    elif argv is None and Path(caller).resolve() == Path(sys.argv[0]).resolve():
        argv = sys.argv[1:]
        parser.set_defaults(command=f"python {shlex.quote(sys.argv[0])}")
    elif argv is None:
        argv = []
    argv = [str(word) for word in argv]
    args = parser.parse_args(argv)
    check_options(parser, args, argv)
    if args.document:
        parser.set_defaults(**document)
    if args.resume:
        load_checkpoint(args.resume, parser, args)
    if args.generate:
        load_checkpoint(args.generate, parser, args)
    args = parser.parse_args(argv)
    args.smallest_batch = smallest_batch
    if not smallest_batch <= args.batch_size <= largest_batch:
        sizes = f"{smallest_batch} to {largest_batch}"
        parser.error(f"--batch-size {args.batch_size} is not from {sizes}")
    return args


def check_options(parser, args, argv):
    """Refuse options that would be ignored."""
    for word in argv:
        option = word.partition("=")[0]
        if not option.startswith("--"):
            continue
        if args.resume and option not in WITH_RESUME:
            parser.error(f"{option} does not go with --resume: leave it out")
        if args.generate and option not in WITH_GENERATE:
            parser.error(f"{option} does not go with --generate: leave it out")
        if not args.generate and option in ONLY_WITH_GENERATE:
            parser.error(f"{option} goes only with --generate: leave it out")


def load_checkpoint(path, parser, args):
    """Read a checkpoint.pt. Its options become defaults. (It can run no code.)"""
    if not path.exists():
        parser.error(f"{path} not found; train first: {args.command}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        kept = checkpoint["args"]
        script = kept["script"]
    except Exception as error:  # noqa: BLE001 (a damaged file raises one of a dozen)
        kind = type(error).__name__
        parser.error(f"{path} is damaged, or no checkpoint.pt ({kind})")
    if script != args.script:
        parser.error(f"{path} is of {script}.py, not of {args.script}.py")
    parser.set_defaults(**kept)
    parser.set_defaults(checkpoint=checkpoint)


# %% Data
def load_mnist(train=True):
    """Return MNIST's images, uint8 (n, 28, 28), and labels, int64 (n,).

    n is 60,000, or 10,000 if train is False.
    """
    part = "train" if train else "t10k"
    say(f"Loading MNIST ({part})")
    images = read_archive(f"{part}-images-idx3-ubyte.gz", header=16)
    labels = read_archive(f"{part}-labels-idx1-ubyte.gz", header=8)
    return images.view(-1, 28, 28), labels.long()


def read_archive(name, header):
    """Return what one of MNIST's archives holds after its header, uint8 (size,)."""
    path = DATA / "MNIST" / "raw" / name
    try:
        content = bytearray(gzip.decompress(path.read_bytes()))
    except Exception as error:  # noqa: BLE001 (a damaged file raises one of four)
        raise SystemExit(f"error: {path}: {error}. Try: git checkout data") from None
    return torch.frombuffer(content, dtype=torch.uint8, offset=header)


# %% Files
def make_folder(args):
    """Make a run's folder: --out, or the next runs/<script>/<n>; or find --resume's.

    Raises SystemExit if --out is not empty, or nothing can be written there.
    """
    try:
        if args.resume:
            folder = args.resume.parent
            tempfile.TemporaryFile(dir=folder).close()  # may we write there?
        elif args.out:
            folder = args.out
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise SystemExit(f"error: {folder} is not empty: name a new folder")
        else:
            folder = make_numbered_folder(Path("runs", args.script))
        (folder / "samples").mkdir(exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: cannot write there: {error}") from None
    return folder


def make_numbered_folder(parent):
    parent.mkdir(parents=True, exist_ok=True)
    n = 1
    while True:
        folder = parent / str(n)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            n += 1


def write_whole(path, content):
    """Write bytes to a file: all of them or, if that fails, none."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise SystemExit(f"error: cannot write {path}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def save_csv(points, path):
    """Write points (n, 2) as lines x,y."""
    points = points.cpu().numpy()
    numpy.savetxt(path, points, "%.6g", delimiter=",", header="x,y", comments="")


def say(text):
    """Print, also where the console does not know a character of a path."""
    encoding = sys.stdout.encoding or "utf-8"
    text = str(text).encode(encoding, "backslashreplace").decode(encoding)
    with tqdm.external_write_mode():  # above a bar
        print(text, flush=True)


# %% Runs
EARLY = [1, 10, 30, 100, 300]  # steps: changes are fast at first
NO_STEP = "no step was counted: loop over run.epochs() and run.minibatches(...)"
# What a checkpoint does not keep.
OF_THIS_CALL = ["checkpoint", "command", "device", "generate", "max_steps"]
OF_THIS_CALL += ["out", "resume", "smallest_batch"]


class Run:
    """The books of a run: counts, means, checkpoints. How to use it:

    with Run(args, G=G, optim_G=optim_G) as run:  # all that --resume needs
        for epoch in run.epochs(every=5):
            for (x,) in run.minibatches(data):
                run.log(loss_G=train(x))  # a tensor or a number
                if run.due:  # after steps 1, 10, 30, 100, 300, epochs 1, 5, 10, ...
                    draw(G, run.sample)
            if good_enough(G):
                run.stop = "it is good enough"
    run.finish({"error": error(G)}, {"error": "0 is perfect"})
    """

    def __init__(self, args, **parts):
        self.args = args
        self.parts = parts  # {name: what has a state_dict}
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self.history = {}  # {name: {epoch: mean}}
        self.sums = {}  # of what was logged since the last epoch that was due
        self.counts = {}
        self.due = False  # is it time for a picture?
        self.epoch_is_due = False  # is it time for a line, means and a checkpoint?
        self.first_step = None  # of this epoch; None outside of run.epochs()
        self.saved_step = 0  # when checkpoint.pt was written
        self.cut = False  # did --max-steps end within an epoch?
        self.stop = ""  # why to end early
        self.kept = 0  # the epoch of the net that is saved; 0: the last
        self.levels = {}  # in losses.png: {name: {what it means: level}}
        if args.checkpoint:
            self.load(args.checkpoint)
        self.last_step = math.inf
        if args.max_steps:
            self.last_step = self.step + args.max_steps
        self.folder = make_folder(args)
        self.checkpoint = args.resume or self.folder / "checkpoint.pt"
        say(f"Writing to {self.folder}")
        self.writer = SummaryWriter(self.folder, purge_step=self.step + 1)
        self.bar = tqdm(
            total=1.0,
            initial=self.part_done(0.0),
            bar_format="{desc}|{bar}| {elapsed}, {remaining} left{postfix}",
            disable=None,  # only in a terminal
            leave=False,
        )
        self.begun = time.perf_counter() - self.seconds
        self.shown = self.begun  # when the bar was drawn

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.bar.close()
        if error is None and self.step == 0:
            raise RuntimeError(NO_STEP)
        if error is None and self.step != self.saved_step:
            self.keep_means()  # the script has left the loop by a break
            self.save()
        if error is None or isinstance(error, KeyboardInterrupt):
            self.draw()
        self.writer.close()
        if error is None or isinstance(error, SystemExit):
            return
        go_on = "nothing is saved"
        if self.checkpoint.exists():
            go_on = f"go on by {self.how_to('--resume')}"
        if isinstance(error, KeyboardInterrupt):
            raise SystemExit(f"stopped in epoch {self.epoch}: {go_on}") from None
        print(f"In epoch {self.epoch}, step {self.step}: {go_on}", file=sys.stderr)
        try:
            largest = self.largest_weight()
        except RuntimeError:  # after some errors a GPU refuses everything
            largest = math.nan
        if not largest < 1e4:
            hint = "try a lower learning rate"
            print(f"The largest weight is {largest:.3g}: {hint}", file=sys.stderr)

    def how_to(self, option):
        path = shlex.quote(str(self.checkpoint))
        return f"{self.args.command} {option} {path}"

    @property
    def sample(self):
        """The path of this step's picture, a frame of the film."""
        name = f"epoch_{self.epoch:05d}_step_{self.step:07d}.png"
        return self.folder / "samples" / name

    @property
    def is_last_epoch(self):
        """Is this the last epoch, as far as is known?"""
        return self.epoch == self.args.epochs or bool(self.stop)

    def epochs(self, every=1):
        """Yield the epochs that are left. The first, the last, every n-th are due."""
        if self.args.checkpoint:
            set_random_states(self.args.checkpoint["random"], self.args.device)
        last = self.args.epochs
        while self.epoch < last and not self.stop:
            self.epoch += 1
            self.epoch_is_due = self.epoch % every == 0 or self.epoch in (1, last)
            self.bar.set_description(f"epoch {self.epoch}/{last}", refresh=False)
            self.first_step = self.step
            yield self.epoch
            self.check_steps()
            self.first_step = None
            if self.epoch_is_due or self.stop:
                self.keep_means()
                self.save()
        self.bar.close()
        why = self.stop or f"--epochs {last}; to go on, raise it"
        where = "in" if self.cut else "after"
        say(f"Stopped {where} epoch {self.epoch}: {why}. Judging ...")

    def minibatches(self, *tensors):
        """Yield --batch-size rows of each tensor at a time, shuffled, then the rest.

        A rest of one row is left out where batch norm needs two: see
        args.smallest_batch.
        """
        if self.first_step is None:
            raise RuntimeError(NO_STEP)
        order = torch.randperm(len(tensors[0]), device=tensors[0].device)
        minibatches = list(order.split(self.args.batch_size))
        if len(minibatches[-1]) < self.args.smallest_batch:
            minibatches.pop()
        for i, rows in enumerate(minibatches, start=1):
            self.step += 1
            ends_epoch = i == len(minibatches)
            ends_run = self.step >= self.last_step
            self.due = (
                self.step in EARLY or ends_run or (ends_epoch and self.epoch_is_due)
            )
            if ends_run:
                self.stop = f"--max-steps {self.args.max_steps}"
                self.cut = not ends_epoch
            yield [tensor[rows] for tensor in tensors]
            self.move_bar(i / len(minibatches))
            if ends_run:
                return

    def check_steps(self):
        """Raise a RuntimeError if no step of this epoch was counted."""
        if self.first_step is None or self.step == self.first_step:
            raise RuntimeError(NO_STEP)

    def log(self, **values):
        """Note tensors or numbers. (To read a tensor's value would make a GPU wait.)"""
        self.check_steps()
        for name, value in values.items():
            value = torch.as_tensor(value).detach()
            if value.numel() != 1:
                shape = tuple(value.shape)
                raise ValueError(f"{name} has to be one number, but has shape {shape}")
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self):
        """Means of what was logged since the last epoch that was due."""
        means = {}
        for name, total in self.sums.items():
            means[name] = (total / self.counts[name]).item()
        return means

    def in_words(self, means):
        return ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())

    def keep_means(self):
        """Print means; keep them for losses.png and TensorBoard."""
        means = self.means()
        self.sums = {}
        self.counts = {}
        for name, mean in means.items():
            if not math.isfinite(mean):
                self.refuse(name, mean)
            self.history.setdefault(name, {})[self.epoch] = mean
            tag = name.replace("loss_", "loss/")  # side by side, in one group
            self.writer.add_scalar(tag, mean, self.step)
        if self.sample.exists():
            picture = numpy.array(Image.open(self.sample).convert("RGB"))
            self.writer.add_image("samples", picture, self.step, dataformats="HWC")
        say(f"epoch {self.epoch}/{self.args.epochs}: {self.in_words(means)}")

    def refuse(self, name, mean):
        message = f"error: {name} is {mean} in epoch {self.epoch}"
        if name.startswith("loss"):
            message += ". If the code is right, try a lower learning rate"
        if self.checkpoint.exists():
            message += f". The last good weights are in {self.checkpoint}"
        raise SystemExit(message)

    def largest_weight(self):
        """The largest weight of all nets, or NaN if one is NaN."""
        sizes = [torch.tensor(0.0)]
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                for weight in part.parameters():
                    sizes.append(weight.detach().abs().max().cpu())
        return torch.stack(sizes).max().item()  # NaN, if one is NaN

    def move_bar(self, done):
        """Draw the bar, at most five times a second. done: the part of this epoch."""
        now = time.perf_counter()
        if self.bar.disable or now < self.shown + 0.2:
            return
        self.shown = now
        self.bar.set_postfix_str(self.in_words(self.means()), refresh=False)
        self.bar.n = self.part_done(done - 1)
        self.bar.refresh()

    def part_done(self, epochs):
        """The part of the whole run, or of --max-steps, that is done."""
        if self.args.max_steps:
            return 1 - (self.last_step - self.step) / self.args.max_steps
        return (self.epoch + epochs) / self.args.epochs

    def draw(self):
        """Draw losses.png, training.gif and training.png."""
        self.plot()
        make_film(self.folder)

    def plot(self):
        if self.history:
            title = f"{self.args.script}.py, seed {self.args.seed}"
            path = self.folder / "losses.png"
            plot_history(self.history, self.levels, self.kept, title, path)

    def finish(self, score, about, look_at="training.png"):
        """Write metrics.json. Name the pictures, look_at first. Print the score.

        score: {name: number or list of numbers}; about: {name: what it means}.
        Returns the score.
        """
        for name, value in score.items():
            if name in self.levels:
                self.history.setdefault(name, {})[self.epoch] = value
        self.plot()
        speed = round(self.step * self.args.batch_size / self.seconds)
        metrics = {
            "score": score,
            "seconds": self.seconds,
            "examples_per_second": speed,
            "history": self.history,
            "torch": torch.__version__,
            "arguments": vars(self.args) | {"checkpoint": None},
        }
        text = json.dumps(metrics, indent=2, default=to_plain)
        write_whole(self.folder / "metrics.json", text.encode())
        first = self.folder / look_at
        pictures = sorted(self.folder.glob("*.png")) + sorted(self.folder.glob("*.gif"))
        pictures.sort(key=lambda path: path != first)
        say(f"{self.seconds:.0f} s, {speed:,} examples a second. Look at:")
        for path in pictures:
            say(f"  {path}")
        say(f"More samples: {self.how_to('--generate')} --seed 1")
        for name, value in json.loads(text)["score"].items():
            values = value if isinstance(value, list) else [value]
            words = " ".join(f"{number:.3g}" for number in values)
            say(f"{name}: {words} ({about.get(name, 'see the script')})")
        if self.args.max_steps and self.step <= self.args.max_steps:
            say("This was a quick try: its scores say nothing yet.")
        show(first)
        return score

    def save(self):
        """Write checkpoint.pt: all that --resume and --generate need."""
        args = vars(self.args).copy()
        for name in OF_THIS_CALL:
            del args[name]
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        stop = self.stop
        if self.step >= self.last_step:
            stop = ""  # --max-steps is of this call, not of the run
        self.seconds = time.perf_counter() - self.begun
        checkpoint = {
            "args": args,
            "epoch": self.epoch - 1 if self.cut else self.epoch,  # a cut one: anew
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "kept": self.kept,
            "stop": stop,
            "parts": parts,
            "random": get_random_states(self.args.device),
        }
        if not self.checkpoint.exists():
            check_readable("--", args)
            check_readable("part ", parts)
        write_whole(self.checkpoint, to_bytes(checkpoint))
        self.saved_step = self.step

    def load(self, checkpoint):
        self.epoch = checkpoint["epoch"]
        self.step = checkpoint["step"]
        self.saved_step = checkpoint["step"]
        self.seconds = checkpoint["seconds"]
        self.history = checkpoint["history"]
        self.kept = checkpoint["kept"]
        for name, part in self.parts.items():
            if name not in checkpoint["parts"]:
                raise KeyError(f"{name} is not in the checkpoint: start a new run")
            part.load_state_dict(checkpoint["parts"][name])
        unchanged = True
        for name, value in checkpoint["args"].items():
            if vars(self.args).get(name) != value:
                unchanged = False
        if unchanged:
            self.stop = checkpoint["stop"]


def to_bytes(checkpoint):
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def check_readable(kind, values):
    """Raise a TypeError if torch.load would refuse one of {name: value}."""
    for name, value in values.items():
        try:
            torch.load(io.BytesIO(to_bytes(value)), weights_only=True)
        except Exception:  # noqa: BLE001 (one of several)
            raise TypeError(
                f"{kind}{name} does not fit into a checkpoint: {value!r:.200}"
                " holds more than tensors, numbers, strings, lists and dicts"
            ) from None


def to_plain(value):
    """NumPy's numbers and tensors as numbers for JSON; all else as a string."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def show(path):
    """Show a picture below a notebook's cell; elsewhere, do nothing."""
    if "IPython" not in sys.modules or not path.exists():
        return
    from IPython import get_ipython
    from IPython.display import Image as Picture
    from IPython.display import display

    shell = get_ipython()
    if shell is not None and type(shell).__name__ != "TerminalInteractiveShell":
        display(Picture(filename=str(path)))


def get_random_states(device):
    states = {"cpu": torch.get_rng_state()}
    if device != "cpu":
        states[device] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_states(states, device):
    torch.set_rng_state(states["cpu"])
    if device != "cpu" and device in states:
        torch.get_device_module(device).set_rng_state(states[device])


# %% Pictures of a run
def save_figure(figure, path, **how):
    """Write a figure of matplotlib to a file, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **how)
    write_whole(path, buffer.getvalue())


def plot_history(history, levels, kept, title, path):
    """Draw {name: {epoch: mean}}: all losses in one panel, then one for each other.

    levels: {name: {what it means: level}}, horizontal lines. kept: an epoch or 0.
    """
    panels = {}  # {label of the y axis: names}
    for name in history:
        label = "loss" if name.startswith("loss") else name
        panels.setdefault(label, []).append(name)
    figure = Figure((7, 2.6 * len(panels)), dpi=100, layout="constrained")
    figure.suptitle(title)
    all_axes = figure.subplots(len(panels), squeeze=False).flat
    for axes, (label, names) in zip(all_axes, panels.items()):
        axes.set(xlabel="epoch", ylabel=label)
        for name in names:
            plot_curve(axes, name, history[name], levels.get(name, {}))
        if kept:
            axes.axvline(kept, color="grey", label="the saved net")
        axes.legend(fontsize="small")
    save_figure(figure, path)


def plot_curve(axes, name, means, levels):
    values = list(means.values())
    (line,) = axes.plot(means.keys(), values, ".-", label=name)
    for style, (meaning, level) in zip([":", "--", "-."], levels.items()):
        color = line.get_color()
        axes.axhline(level, color=color, linestyle=style, label=meaning)
    if name.startswith("loss") or min(values) <= 0:
        return
    if max(values) > 30 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=12))
        axes.yaxis.set_major_formatter("{x:g}")  # 40, not 4 x 10^1
        axes.yaxis.set_minor_formatter(NullFormatter())


def make_film(folder):
    """Make training.gif of the pictures in samples/, and training.png of four."""
    frames = read_frames(folder / "samples")
    if not frames:
        return
    durations = [200] * (len(frames) - 1) + [3000]  # ms; the last one stays
    film = io.BytesIO()
    frames[0].save(
        film,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
    )
    write_whole(folder / "training.gif", film.getvalue())
    n = len(frames)
    four = [frames[0], frames[n // 6], frames[n // 3], frames[-1]]
    width, height = frames[0].size
    strip = Image.new("RGB", (4 * width + 60, height), "white")
    for i, frame in enumerate(four):
        strip.paste(frame, (i * (width + 20), 0))
    picture = io.BytesIO()
    strip.save(picture, format="PNG")
    write_whole(folder / "training.png", picture.getvalue())


def read_frames(folder):
    """Read the pictures of a folder, in the order of their steps.

    Each has at least a tenth more steps than the one before: changes are fast at
    first. The last one always stays.
    """
    paths = {}  # {(step, epoch): path}
    for path in folder.glob("epoch_*_step_*.png"):
        numbers = re.fullmatch(r"epoch_(\d+)_step_(\d+)", path.stem)
        if numbers:
            paths[int(numbers[2]), int(numbers[1])] = path
    frames = []
    last_step = 0
    for step, epoch in sorted(paths):
        if step < 1.1 * last_step and step != max(paths)[0]:
            continue
        path = paths[step, epoch]
        try:
            frames.append(read_frame(path, f"epoch {epoch}, step {step}"))
            last_step = step
        except (OSError, SyntaxError):
            say(f"left out of the film, since it cannot be read: {path}")
    return frames


def read_frame(path, caption):
    """Read a picture. A small one, a grid of digits, is doubled and gets a caption."""
    frame = Image.open(path).convert("RGB")
    if frame.width >= 400:
        return frame  # a figure, which has a title
    return enlarge(frame, 2, caption)


def enlarge(picture, factor, caption):
    """Enlarge a picture of PIL, with a caption above it."""
    width, height = picture.size
    width *= factor
    height *= factor
    page = Image.new("RGB", (width, height + 26), "white")
    page.paste(picture.resize((width, height), Image.Resampling.NEAREST), (0, 26))
    font = ImageFont.load_default(16)
    ImageDraw.Draw(page).text((6, 3), caption, "black", font)
    return page


def save_grid(grid, path, title):
    """Save what make_grid makes (3, height, width) at three times its size."""
    pixels = (grid.permute(1, 2, 0) * 255).round().byte().cpu()
    picture = enlarge(Image.fromarray(pixels.numpy()), 3, title)
    picture.save(path)


# %% The average of a net
def update_average(average, net, step):
    """Move the average a part of the way to the net. Call it after each step.

    The part is 14 / (14 + t), t = step // 10: so late steps count most, and their mean
    age is a 15th of all steps (Karras et al., 2024, arXiv 2312.02696). The first nine
    steps copy. Then every tenth counts: that tells as much, and costs less.
    """
    if step < 1:
        raise RuntimeError(NO_STEP)
    if step > 9 and step % 10 != 1:
        return
    weight = 14 / (14 + step // 10)
    new = net.state_dict()
    for name, old in average.state_dict().items():
        if old.is_floating_point():
            old.lerp_(new[name], weight)
        else:
            old.copy_(new[name])  # the count of batches, in batch norm
