"""Small utilities that the scripts share, none about GANs."""

import argparse
import gzip
import inspect
import json
import math
import os
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure  # not pyplot, which may open windows
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch.utils.data import TensorDataset
from tqdm import tqdm

DATA = Path(__file__).resolve().parent / "data"


# %% Options
class Help(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Shows defaults, and the description as it is written."""


def number(kind, low, high):
    """Make an argparse type: an int or a float from low to high."""

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    convert.__name__ = kind.__name__  # argparse says: invalid int value
    return convert


size = number(int, 1, 10**9)
rate = number(float, 1e-9, 1e9)  # a learning rate
share = number(float, 0, 0.9999)


def make_parser(script, description, epochs, batch_size):
    """Return an ArgumentParser with the options that all scripts have."""
    parser = argparse.ArgumentParser(
        f"{script}.py",
        usage=f"{script}.py [options]",
        description=description,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.set_defaults(**dict.fromkeys(OF_THIS_CALL))  # None, if not given
    parser.set_defaults(script=script, command=f"python {script}.py")
    gpu = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu", gpu.type] if gpu else ["cpu"]
    add = parser.add_argument
    add("--epochs", type=size, default=epochs, metavar="N", help="stop after N")
    add("--batch-size", type=size, default=batch_size, metavar="N", help="of a step")
    seed = number(int, 0, 2**63 - 1)
    add("--seed", type=seed, default=0, metavar="N", help="of all random numbers")
    add("--device", choices=devices, default=devices[-1], help="where to compute")
    hidden = argparse.SUPPRESS  # no default that --help could show
    add("--max-steps", type=size, default=hidden, metavar="N", help="one short epoch")
    add("--out", type=Path, default=hidden, metavar="DIR", help="write to a new folder")
    add("--resume", type=Path, default=hidden, metavar="CHECKPOINT", help="go on")
    add("--generate", type=Path, default=hidden, metavar="CHECKPOINT", help="draw")
    add("--document", action="store_true", default=hidden, help="document's settings")
    return parser


# What a checkpoint does not keep, and what goes with --resume, and so on.
OF_THIS_CALL = ["checkpoint", "command", "device", "document", "generate"]
OF_THIS_CALL += ["max_steps", "out", "resume"]
WITH_RESUME = ["--resume", "--device", "--epochs", "--max-steps", "--patience"]
WITH_GENERATE = ["--generate", "--digits", "--n", "--out", "--seed"]
ONLY_WITH_GENERATE = ["--digits", "--n"]


def parse(parser, argv, document):
    """Options: those given, else the checkpoint's, else --document's, else defaults.

    argv: words, or a string to split at spaces. None: the command line, but only if
    the script was started as a program. In a notebook it is not the script's.
    """
    caller = inspect.currentframe().f_back.f_code.co_filename  # the script's file
    if isinstance(argv, str):
        argv = argv.split()
    elif argv is None and Path(caller).resolve() == Path(sys.argv[0]).resolve():
        argv = sys.argv[1:]
        parser.set_defaults(command=f"python {sys.argv[0]}")
    words = [str(word) for word in argv or []]
    args = parser.parse_args(words)
    for word in words:
        if word.startswith("--") and would_ignore(args, word.partition("=")[0]):
            parser.error(f"{word} would be ignored: leave it out")
    if args.document:
        parser.set_defaults(**document)
    if args.resume or args.generate:
        load_checkpoint(args.resume or args.generate, parser)
    return parser.parse_args(words)


def would_ignore(args, option):
    if args.max_steps and option == "--epochs":
        return True
    if args.resume:
        return option not in WITH_RESUME
    if args.generate:
        return option not in WITH_GENERATE
    return option in ONLY_WITH_GENERATE


def load_checkpoint(path, parser):
    """Read a checkpoint.pt. Its options become defaults. (It can run no code.)"""
    script = parser.get_default("script")
    if not path.exists():
        parser.error(f"{path} not found; train first: python {script}.py")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        its_script = checkpoint["args"]["script"]
    except Exception as error:  # noqa: BLE001 (a damaged file raises one of a dozen)
        parser.error(f"{path} is damaged, or no checkpoint.pt ({type(error).__name__})")
    if its_script != script:
        parser.error(f"{path} is of {its_script}.py, not of {script}.py")
    for name, value in checkpoint["args"].items():
        if value != parser.get_default(name):
            print(f"{name}: {value}, from the checkpoint")
    parser.set_defaults(**checkpoint["args"], checkpoint=checkpoint)


def use_one_thread():
    """For programs. Threads that share a core with something else wait and wait."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


# %% Data
def load_mnist(train=True):
    """Return MNIST's images, uint8 (n, 28, 28), and labels, int64 (n,).

    n is 60,000, or 10,000 if train is False.
    """
    part = "train" if train else "t10k"
    images = read_archive(f"{part}-images-idx3-ubyte.gz", header=16)
    labels = read_archive(f"{part}-labels-idx1-ubyte.gz", header=8)
    return images.view(len(labels), 28, 28), labels.long()


def read_archive(name, header):
    """Return what one of MNIST's archives holds after its header, uint8 (size,)."""
    path = DATA / "MNIST" / "raw" / name
    try:
        content = bytearray(gzip.decompress(path.read_bytes()))
        return torch.frombuffer(content, dtype=torch.uint8, offset=header)
    except Exception as error:  # noqa: BLE001 (a damaged file raises one of four)
        raise SystemExit(f"error: {path}: {error}. Download it again") from None


def minibatches(args, *tensors):
    """Yield --batch-size rows of each tensor at a time, shuffled, then the rest."""
    dataset = TensorDataset(*tensors)  # it refuses tensors of different lengths
    n = len(dataset)
    if args.batch_size > n:
        raise SystemExit(f"error: --batch-size {args.batch_size}, but only {n} rows")
    order = torch.randperm(n, device=tensors[0].device)
    steps = order.split(args.batch_size)[: args.max_steps]
    for rows in tqdm(steps, disable=None, leave=False, delay=1):
        yield dataset[rows]


# %% Files
def make_folder(args):
    """Make --out, or the next runs/<script>/<n>; or find the checkpoint's folder."""
    checkpoint = args.resume or args.generate
    if checkpoint and not args.out:
        return checkpoint.parent
    folder = args.out or next_path("runs", args.script, "{}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: cannot write there: {error}") from None
    if any(folder.iterdir()):
        raise SystemExit(f"error: {folder} is not empty: name a new folder")
    return folder


def next_path(*parts):
    """The first path that is not there yet: 1, 2, ... for {}."""
    path = str(Path(*parts))
    n = 1
    while Path(path.replace("{}", str(n))).exists():
        n += 1
    return Path(path.replace("{}", str(n)))


# %% A run
EARLY = [1, 10, 30, 100, 300]  # steps after which to draw: changes are fast at first


class Run:
    """What a run notes, saves and draws. The loops are the script's:

    with Run(args, G=G, optim_G=optim_G) as run:  # all that --resume needs
        for epoch in range(run.epoch + 1, args.epochs + 1):
            for (x,) in minibatches(args, data):
                run.step += 1
                run.log(loss_G=train(x))  # a tensor or a number
            run.end_epoch(epoch)  # prints means, writes checkpoint.pt
        error = judge(G)
    run.finish({"error": error}, {"error": "0 is perfect"})
    """

    def __init__(self, args, **parts):
        self.args = args
        self.parts = parts  # {name: what has a state_dict}
        self.epoch = 0  # the last one that ended
        self.step = 0
        self.seconds = 0.0
        self.history = {}  # {name: {epoch: mean}}
        self.sums = {}  # of what was logged since the last end_epoch
        self.counts = {}
        self.levels = {}  # in losses.png: {name: {what it means: level}}
        self.folder = make_folder(args)
        (self.folder / "samples").mkdir(exist_ok=True)
        self.checkpoint = args.resume or self.folder / "checkpoint.pt"
        print(f"Writing to {self.folder}, computing on {args.device}", flush=True)
        self.begun = time.perf_counter()
        if args.checkpoint:
            self.load(args.checkpoint)
        else:
            self.save()
        if args.max_steps:
            args.epochs = self.epoch + 1  # one epoch, the first or the next
        if args.resume:
            print(f"Going on after epoch {self.epoch} of {args.epochs}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Draw the pictures, after Ctrl-C, too."""
        if kind is KeyboardInterrupt:
            go_on = self.how_to("--resume")
            print(f"\nStopped after epoch {self.epoch}. Go on: {go_on}", flush=True)
        if kind in (None, KeyboardInterrupt):
            self.draw()
        if kind is KeyboardInterrupt:
            raise SystemExit(1) from None

    def how_to(self, option):
        return f'{self.args.command} {option} "{self.checkpoint}"'

    @property
    def frame(self):
        """The path of a picture after this step, a frame of the film."""
        return self.folder / "samples" / f"step_{self.step:08d}.png"

    def log(self, **values):
        """Add up tensors or numbers. (To read a tensor's value makes a GPU wait.)"""
        for name, value in values.items():
            value = torch.as_tensor(value).detach().view(())  # it has to be one
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def end_epoch(self, epoch):
        """Print and return the means of what was logged. Write checkpoint.pt."""
        means = {}
        for name, total in self.sums.items():
            mean = (total / self.counts[name]).item()
            if not math.isfinite(mean):
                hint = "try a lower learning rate"
                raise SystemExit(f"error: {name} is {mean} in epoch {epoch}: {hint}")
            means[name] = mean
            self.history.setdefault(name, {})[epoch] = mean
        self.sums = {}
        self.counts = {}
        self.seconds += time.perf_counter() - self.begun
        self.begun = time.perf_counter()
        self.epoch = epoch
        self.save()
        words = ", ".join(f"{name} {mean:.4g}" for name, mean in means.items())
        left = tqdm.format_interval((self.args.epochs - epoch) * self.seconds / epoch)
        print(f"epoch {epoch}/{self.args.epochs}: {words} ({left} left)", flush=True)
        return means

    def save(self):
        """Write checkpoint.pt: all that --resume and --generate need."""
        args = vars(self.args).copy()
        for name in OF_THIS_CALL:
            del args[name]
        if self.args.max_steps:
            del args["epochs"]  # of this call, too
        checkpoint = {
            "args": args,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "random": get_random_states(self.args.device),
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(checkpoint, part)
        torch.load(part, weights_only=True)  # can it be read? Else an error now
        part.replace(self.checkpoint)  # whole or not at all

    def load(self, checkpoint):
        self.epoch = checkpoint["epoch"]
        self.step = checkpoint["step"]
        self.seconds = checkpoint["seconds"]
        self.history = checkpoint["history"]
        for name, part in self.parts.items():
            part.load_state_dict(checkpoint["parts"][name])
        set_random_states(checkpoint["random"], self.args.device)

    def draw(self):
        """Draw losses.png, training.gif and training.png."""
        if self.history:
            plot_history(self.history, self.levels, self.folder / "losses.png")
        make_film(self.folder)

    def finish(self, score, about, *pictures):
        """Write metrics.json. Name pictures, the telling ones first. Print the score.

        score: {name: number}; about: {name: what it means}. Returns the score.
        """
        metrics = {
            "score": score,
            "seconds": self.seconds,
            "history": self.history,
            "torch": torch.__version__,
            "arguments": vars(self.args) | {"checkpoint": None},
        }
        text = json.dumps(metrics, indent=2, default=str)
        (self.folder / "metrics.json").write_text(text)
        print(f"{self.seconds:.0f} s. Look at:")
        names = [*pictures, "training.png", "training.gif", "losses.png"]
        for name in names:
            print(f"  {self.folder / name}")
        print(f"More samples: {self.how_to('--generate')} --seed 1")
        for name, value in score.items():
            print(f"{name}: {value:,.4g} ({about[name]})")
        if "ipykernel" in sys.modules:  # show it below a notebook's cell
            from IPython import display

            display.display(display.Image(filename=str(self.folder / names[0])))
        return score


def get_random_states(device):
    states = {"cpu": torch.get_rng_state()}
    if device != "cpu":
        states[device] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_states(states, device):
    torch.set_rng_state(states["cpu"])
    if device != "cpu" and device in states:
        torch.get_device_module(device).set_rng_state(states[device])


# %% Pictures
def save_grid(grid, path, title):
    """Save what make_grid makes (3, height, width), enlarged, with a title above."""
    pixels = (grid.permute(1, 2, 0) * 255).round().byte().cpu()
    picture = Image.fromarray(pixels.numpy())
    factor = max(2, 480 // picture.width)
    picture = ImageOps.scale(picture, factor, Image.Resampling.NEAREST)
    page = Image.new("RGB", (picture.width, picture.height + 26), "white")
    page.paste(picture, (0, 26))
    ImageDraw.Draw(page).text((6, 3), title, "black", ImageFont.load_default(16))
    page.save(path)


def plot_history(history, levels, path):
    """Draw {name: {epoch: mean}}, a panel for each name.

    levels: {name: {what it means: level}}, horizontal lines.
    """
    n = len(history)
    figure = Figure((7, 2 * n + 0.5), dpi=100, layout="constrained")
    all_axes = figure.subplots(n, sharex=True, squeeze=False).flat
    for axes, (name, means) in zip(all_axes, history.items()):
        axes.plot(means.keys(), means.values(), ".-", label=name)
        for meaning, level in levels.get(name, {}).items():
            axes.axhline(level, c="grey", ls=":", label=meaning)
        if max(means.values()) > 30 * min(means.values()) > 0:
            axes.set_yscale("log")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    axes.set(xlabel="epoch", xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path)


def make_film(folder):
    """Make training.gif of the pictures in samples/, and training.png of four."""
    frames = {}  # {step: picture}
    for path in sorted(folder.glob("samples/step_*.png")):
        step = int(path.stem.removeprefix("step_"))
        frames[step] = Image.open(path).convert("RGB")
    if not frames:
        return
    first, *others = frames.values()
    durations = [200] * len(others) + [3000]  # ms; the last one stays
    film = {"save_all": True, "duration": durations, "loop": 0}
    first.save(folder / "training.gif", append_images=others, **film)
    page = Image.new("RGB", (2 * first.width + 20, 2 * first.height + 20), "white")
    for i, step in enumerate(choose_four(list(frames))):
        corner = (i % 2 * (first.width + 20), i // 2 * (first.height + 20))
        page.paste(frames[step], corner)
    page = page.crop(ImageOps.invert(page).getbbox())  # less white, if there are fewer
    page.save(folder / "training.png")


def choose_four(steps):
    """The last of the steps, and those nearest to 2, 8 and 30 % of it."""
    four = []
    for part in [1, 0.3, 0.08, 0.02]:
        others = [step for step in steps if step not in four]
        four += sorted(others, key=lambda step: abs(step - part * steps[-1]))[:1]
    return sorted(four)


# %% The average of a net
def update_average(average, net, step):
    """Move the average a part of the way to the net. Call it after every tenth step.

    The part is 14 / (14 + t), t = step / 10: so late steps count most, and their mean
    age is a 15th of all steps (Shamir and Zhang, 2013, arXiv 1212.1824).
    """
    part = 14 / (14 + step / 10)
    new = net.state_dict()
    for name, old in average.state_dict().items():
        if old.is_floating_point():
            old.lerp_(new[name], part)
        else:
            old.copy_(new[name])  # the count of batches, in batch norm
