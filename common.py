"""Small utilities that the scripts share, none about GANs."""

import argparse
import contextlib
import inspect
import json
import math
import os
import shlex
import sys
import time
import zipfile
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
    """Shows defaults and types, and the description as it is written."""

    # argparse.MetavarTypeHelpFormatter has it, but fails if an option has no type.
    def _get_default_metavar_for_optional(self, action):
        return action.type.__name__ if action.type else "text"


def limited(kind, low, high):
    """Make an argparse type: an int or a float from low to high."""

    def number(text):  # argparse says: invalid number value
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return value

    return number


positive_int = limited(int, 1, 10**9)
positive_float = limited(float, 1e-9, 1e9)
fraction = limited(float, 0, 0.9999)
yes_no = argparse.BooleanOptionalAction  # --x and --no-x

# Options of one call: no checkpoint keeps or gives them.
OF_THIS_CALL = ["command", "device", "generate", "max_steps", "out", "resume"]
WITH_RESUME = ["--resume", "--device", "--epochs", "--max-steps"]
WITH_GENERATE = ["--generate", "--out", "--seed"]


def make_parser(name, description, epochs, batch, of=10**9):
    """Return an ArgumentParser with the options that all scripts have.

    name: what the program is called in a notebook. Elsewhere its file's name counts.
    epochs, batch: defaults. of: how many examples there are, the largest batch.
    """
    file = Path(inspect.currentframe().f_back.f_code.co_filename)
    script = file.stem if file.exists() else name  # a copy may have another name
    parser = argparse.ArgumentParser(
        f"{script}.py",
        usage=f"{script}.py [options]",
        description=description,
        formatter_class=Help,
        allow_abbrev=False,
    )
    parser.set_defaults(**dict.fromkeys(OF_THIS_CALL))  # None, if not given
    parser.set_defaults(script=script, command=f"python {script}.py", document=False)
    gpu = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu", gpu.type] if gpu else ["cpu"]

    def add(option, text, default=argparse.SUPPRESS, **how):  # nothing to show
        parser.add_argument(option, help=text, default=default, **how)

    add("--epochs", "how long to train", epochs, type=positive_int)
    add("--batch-size", "examples per step", batch, type=limited(int, 1, of))
    add("--seed", "same seed, same random numbers", 0, type=limited(int, 0, 2**63 - 1))
    add("--device", "where to compute", devices[-1], choices=devices)
    add("--max-steps", "a quick try: one epoch of so many steps", type=positive_int)
    add("--out", f"a new folder, instead of runs/{script}/1, 2, ...", type=Path)
    add("--resume", "go on with the run of this checkpoint.pt", type=Path)
    add("--generate", "draw with this checkpoint.pt, train nothing", type=Path)
    add("--document", "use the settings of the text it follows", action="store_true")
    return parser


def parse(parser, argv, document, resume=(), generate=()):
    """Options: those given, else the checkpoint's, else --document's, else defaults.

    argv: words, or a string of them. None: the command line, if it is this script's.
    resume: the script's own options that may go with --resume.
    generate: its own options that go with --generate, and only with it.
    """
    if isinstance(argv, str):
        argv = shlex.split(argv.replace("\\", "\\\\"))  # a\b stays, as Windows has it
    elif argv is None and Path(sys.argv[0]).stem == parser.get_default("script"):
        argv = sys.argv[1:]
        parser.set_defaults(command=f'python "{sys.argv[0]}"')
    words = [str(word) for word in argv or []]
    given = parser.parse_args(words)
    for option in [word.partition("=")[0] for word in words if word.startswith("--")]:
        if given.resume and option not in [*WITH_RESUME, *resume]:
            parser.error(f"a resumed run keeps its options: leave out {option}")
        if given.generate and option not in [*WITH_GENERATE, *generate]:
            parser.error(f"{option} does not go with --generate: leave it out")
        if option in generate and not given.generate:
            parser.error(f"{option} goes with --generate: leave it out")
        if option == "--epochs" and given.max_steps:
            parser.error("--max-steps trains one epoch: leave out --epochs")
    if given.document:
        parser.set_defaults(**document)
    if given.resume or given.generate:
        parser.set_defaults(**load_options(given.resume or given.generate, parser))
    return parser.parse_args(words)


def load_options(path, parser):
    """The options that a checkpoint.pt of this script keeps."""
    script = parser.get_default("script")
    if not path.exists():
        parser.error(f"{path} not found; train first: python {script}.py")
    try:
        options = load(path)["args"]
        its_script = options["script"]
    except Exception as error:  # noqa: BLE001 (a damaged file raises one of a dozen)
        parser.error(f"{path} is damaged, or no checkpoint.pt ({type(error).__name__})")
    if its_script != script:
        parser.error(f"{path} is of {its_script}.py, not of {script}.py")
    for name in OF_THIS_CALL:
        options.pop(name, None)
    return options


def use_one_thread():
    """For programs: compute on one thread, unless OMP_NUM_THREADS asks for more.

    Threads wait for each other. With another program busy, two are slower than one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


# %% Data
def minibatches(args, *tensors):
    """Yield --batch-size rows of each tensor at a time, shuffled, then the rest.

    As DataLoader(TensorDataset(*tensors), args.batch_size, shuffle=True), but faster,
    and at most --max-steps of them.
    """
    dataset = TensorDataset(*tensors)  # it refuses tensors of different lengths
    order = torch.randperm(len(dataset), device=tensors[0].device)
    steps = order.split(args.batch_size)[: args.max_steps]
    for rows in tqdm(steps, disable=None, leave=False, delay=1):
        yield dataset[rows]


# %% Files
def load(path):
    """Read what torch.save wrote. It can run no code. Damage raises an exception."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip():  # PyTorch does not look at the archive's checksums
            raise zipfile.BadZipFile(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def make_folder(args):
    """Make --out, or the next runs/<script>/<n>; or find the checkpoint's folder."""
    checkpoint = args.resume or args.generate
    if checkpoint and not args.out:
        return checkpoint.parent
    folder = args.out or next_path(f"runs/{args.script}/{{}}")
    try:
        folder.mkdir(parents=True, exist_ok=args.out is not None)
    except OSError as error:
        if folder.is_dir():  # another run has just taken this number
            return make_folder(args)
        raise SystemExit(f"error: cannot write there: {error}") from None
    if any(folder.iterdir()):
        raise SystemExit(f"error: {folder} is not empty: name a new folder")
    return folder


def next_path(pattern):
    """The first path that is not there yet: 1, 2, ... for {}."""
    n = 1
    while Path(pattern.replace("{}", str(n))).exists():
        n += 1
    return Path(pattern.replace("{}", str(n)))


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
    run.finish({"error": error}, {"error": "0 is perfect"}, "training.png")
    """

    def __init__(self, args, **parts):
        self.args = args
        self.parts = parts  # {name: what has a state_dict}
        self.epoch = 0  # the last one that ended
        self.step = 0
        self.seconds = 0.0
        self.history = {}  # {name: {epoch: mean}}
        self.logged = {}  # since the last end_epoch: {name: values}
        self.levels = {}  # lines in losses.png: {name: {what it means: level}}
        self.folder = make_folder(args)
        (self.folder / "samples").mkdir(exist_ok=True)
        self.checkpoint = args.resume or self.folder / "checkpoint.pt"
        print(f"Writing to {self.folder}, computing on {args.device}", flush=True)
        self.begun = time.perf_counter()
        self.random = {"cpu": torch}  # {device: what draws random numbers there}
        if args.device != "cpu":
            self.random[args.device] = torch.get_device_module(args.device)
        if args.resume:
            self.load()
            print(f"Going on after epoch {self.epoch}", flush=True)
        else:
            self.save()
        if args.max_steps:
            args.epochs = self.epoch + 1  # one epoch, the first or the next

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        """Draw the pictures, after Ctrl-C, too."""
        if kind is KeyboardInterrupt:
            print(
                f"\nStopped after epoch {self.epoch}. Go on: {self.how_to('--resume')}"
            )
        elif kind:
            return
        if self.history:
            plot_history(self.history, self.levels, self.folder / "losses.png")
        make_film(self.folder)
        if kind:
            raise SystemExit(1) from None

    def how_to(self, option):
        return f'{self.args.command} {option} "{self.checkpoint}"'

    @property
    def frame(self):
        """The path of a picture after this step, a frame of the film."""
        return self.folder / "samples" / f"step_{self.step:08d}.png"

    def log(self, **values):
        """Note tensors or numbers. (To read a tensor's value here makes a GPU wait.)"""
        for name, value in values.items():
            # view: an error, here, if it is not one number
            value = torch.as_tensor(value).detach().clone().view(())
            self.logged.setdefault(name, []).append(value)

    def end_epoch(self, epoch):
        """Print and return the means of what was logged. Write checkpoint.pt."""
        means = {}
        for name, values in self.logged.items():
            mean = torch.stack(values).float().mean().item()
            if not math.isfinite(mean):
                raise SystemExit(f"error: {name} is {mean}: try a lower learning rate")
            means[name] = mean
            self.history.setdefault(name, {})[epoch] = mean
        self.logged = {}
        seconds = time.perf_counter() - self.begun  # since the last call
        left = (self.args.epochs - epoch) * seconds / max(epoch - self.epoch, 1)
        self.seconds += seconds
        self.begun += seconds
        self.epoch = epoch
        self.save()
        words = [f"{name} {mean:.4g}" for name, mean in means.items()]
        if left > 0 and epoch >= self.args.epochs / 20:  # earlier, a guess is poor
            words.append(f"{tqdm.format_interval(left)} left")
        print(f"epoch {epoch}/{self.args.epochs}: {', '.join(words)}", flush=True)
        return means

    def save(self):
        """Write checkpoint.pt: all that --resume and --generate need."""
        args = json.loads(json.dumps(vars(self.args), default=str))  # a Path: its name
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
            "random": {name: it.get_rng_state() for name, it in self.random.items()},
        }
        part = self.checkpoint.with_suffix(".part")
        torch.save(checkpoint, part)
        part.replace(self.checkpoint)  # whole or not at all

    def load(self):
        checkpoint = load(self.checkpoint)
        self.epoch = checkpoint["epoch"]
        self.step = checkpoint["step"]
        self.seconds = checkpoint["seconds"]
        self.history = checkpoint["history"]
        for name, part in self.parts.items():
            part.load_state_dict(checkpoint["parts"][name])
        for name, state in checkpoint["random"].items():
            if name in self.random:
                self.random[name].set_rng_state(state)

    def finish(self, score, about, *pictures):
        """Write metrics.json. Name pictures, the telling ones first. Print the score.

        score: {name: number}; about: {name: what it means}. Returns the score.
        """
        metrics = {
            "score": score,
            "seconds": self.seconds,
            "history": self.history,
            "torch": torch.__version__,
            "arguments": vars(self.args),
        }
        path = self.folder / "metrics.json"
        path.write_text(json.dumps(metrics, indent=2, default=str))
        print(f"{self.seconds:.0f} s. Look at:")
        show(self.folder / pictures[0])
        for name in [*pictures[1:], "training.gif", "losses.png"]:
            print(self.folder / name)
        print(f"More samples: {self.how_to('--generate')} --seed 1")
        for name, value in score.items():
            print(f"{name}: {value:,.4g} ({about[name]})")
        return score


# %% Pictures
def show(path):
    """Print a picture's path. In a notebook, show it below the cell."""
    print(path)
    if "ipykernel" in sys.modules:
        from IPython import display

        display.display(display.Image(filename=str(path)))


def save_grid(grid, path, title):
    """Save what make_grid makes (3, height, width), enlarged, with a title above."""
    pixels = (grid.permute(1, 2, 0) * 255).round().byte().cpu()
    picture = Image.fromarray(pixels.numpy())
    picture = ImageOps.scale(picture, max(1, 700 // picture.width), Image.NEAREST)
    page = ImageOps.expand(picture, (0, 26, 0, 0), "white")
    ImageDraw.Draw(page).text((6, 3), title, "black", ImageFont.load_default(16))
    page.save(path)


def plot_history(history, levels, path):
    """Draw {name: {epoch: mean}}, a panel for each name.

    levels: {name: {what it means: level}}, horizontal lines.
    """
    figure = Figure((7, 2 * len(history) + 0.5), dpi=100, layout="constrained")
    all_axes = figure.subplots(len(history), sharex=True, squeeze=False).flat
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
    for path in sorted(folder.glob(f"samples/step_{8 * '[0-9]'}.png")):
        step = int(path.stem.removeprefix("step_"))
        with contextlib.suppress(OSError):  # Ctrl-C may have cut the last one
            frames[step] = Image.open(path).convert("RGB")
    if not frames:
        return
    first, *others = frames.values()
    durations = [400] * len(others) + [3000]  # ms; the last one stays
    film = {"save_all": True, "duration": durations, "loop": 0}
    first.save(folder / "training.gif", append_images=others, **film)
    four = set()  # the steps nearest to 0, 8, 30 and 100 % of the last
    for part in [0, 0.08, 0.3, 1]:
        four.add(min(frames, key=lambda step: abs(step - part * max(frames))))
    width = first.width + 20
    height = first.height + 20
    rows = math.ceil(len(four) / 2)
    page = Image.new("RGB", (2 * width + 20, rows * height + 20), "white")
    for i, step in enumerate(sorted(four)):
        page.paste(frames[step], (20 + i % 2 * width, 20 + i // 2 * height))
    page.save(folder / "training.png")


# %% The average of a net
def update_average(average, net, step):
    """Move the average a part of the way to the net. Call it after every tenth step.

    The part is 14 / (14 + t), t = step / 10: so late steps count most, and their mean
    age is a 15th of all steps (Shamir and Zhang, 2013, arXiv 1212.1824).
    """
    part = 14 / (14 + step / 10)
    new = net.state_dict()
    for name, old in average.state_dict().items():
        if old.is_floating_point():  # all but the count of batches in batch norm
            old.lerp_(new[name], part)
