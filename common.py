"""What the scripts share.

Nothing here is about GANs: whoever reads a script to learn can skip this file. It holds
the command line that all scripts have, the run folder, MNIST as one tensor, shuffled
minibatches, checkpoints, saved generators, and the files that a run ends with.
"""

import argparse
import contextlib
import copy
import filecmp
import functools
import io
import json
import math
import os
import pickle
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

DATA = Path(__file__).resolve().parent / "data"


def fail(message, status=1):
    """End the program with one line on stderr and this exit status."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


# --- The command line -----------------------------------------------------------------


def _number(text, kind, fits, wanted):
    with contextlib.suppress(ValueError):
        if fits(value := kind(text)):
            return value
    raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")


def natural(text):
    """An argparse type, like the three below: 0, 1, 2, ..., as far as seeds go."""
    return _number(text, int, lambda x: 0 <= x < 2**63, "a whole number, 0 or more")


def positive_int(text):
    return _number(text, int, lambda x: x > 0, "a whole number, 1 or more")


def positive_float(text):
    return _number(text, float, lambda x: 0 < x < math.inf, "a number above 0")


def fraction(text):
    return _number(text, float, lambda x: 0 <= x < 1, "at least 0 and below 1")


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawTextHelpFormatter):
    """--help shows each default, but for options that are just absent."""

    def __init__(self, prog):
        super().__init__(prog, max_help_position=32)

    def _get_help_string(self, action):
        absent = action.default is None or action.default is False
        return action.help if absent else super()._get_help_string(action)


def make_parser(script, description, epochs, batch_size):
    """An ArgumentParser with the options that every script has; a script adds its own."""
    name = f"{script}.py"
    parser = argparse.ArgumentParser(
        name, f"{name} [options]", description, formatter_class=_Help
    )
    add = parser.add_argument
    add("--epochs", type=positive_int, default=epochs, help="passes over the data")
    add("--batch-size", type=positive_int, default=batch_size, help="minibatch size")
    add("--seed", type=natural, default=0, help="seed of all random numbers")
    devices = ["auto", "cpu", "cuda", "mps"]
    add("--device", choices=devices, default="auto", help="where to compute")
    add("--out", metavar="DIR", help=f"write here, not to runs/{script}/<n>")
    add("--max-steps", type=positive_int, metavar="N", help="a quick try: only N steps")
    add("--resume", metavar="CHECKPOINT", help="go on from a run's checkpoint.pt")
    add("--generate", metavar="GENERATOR", help="only sample from a generator.pt2")
    add("--document", action="store_true", help="undo all departures from the document")
    return parser


def add_bfloat16(parser):
    """Add --bfloat16, for mixed_precision: on where the processor is made for it."""
    fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    flag = argparse.BooleanOptionalAction
    text = "bfloat16 matrix products: on if the CPU is made for them"
    parser.add_argument("--bfloat16", action=flag, default=fast, help=text)


# What belongs to one call and not to the run: checkpoints and generators do not bind it.
_ONE_CALL = {"device", "out", "max_steps", "resume", "generate", "verbose", "show"}
_ONE_CALL |= {"n", "n_cpu", "digits", "reconstruct"}
# What does, unless you say otherwise: a run may go on longer, or on another processor.
_MAY_CHANGE = {"epochs", "patience", "bfloat16"}


def parse_arguments(parser, argv, document):
    """Parse the command line; --document, --resume and --generate change the defaults.

    document: {option: value}, the defaults under --document. Options that are given win.
    Returns (arguments, checkpoint or None); exits with status 2 if anything is wrong.
    """
    args = parser.parse_args(argv)
    if args.document:
        parser.set_defaults(**document)
    checkpoint, bound = None, {}
    if args.resume:
        if args.generate or args.out:
            parser.error("--resume writes to its checkpoint's folder and trains on")
        checkpoint = load_checkpoint(args.resume, Path(parser.prog).stem)
        if Path(args.resume).name != "checkpoint.pt":  # going on writes to that name
            parser.error(f"--resume {args.resume}: only of the name checkpoint.pt")
        bound = checkpoint["arguments"]
    elif args.generate:
        bound = load_generator(args.generate, Path(parser.prog).stem)[2]
    elif vars(args).get("reconstruct"):  # only aae_mnist.py has it
        bound = load_checkpoint(args.reconstruct, Path(parser.prog).stem)["arguments"]
    if not args.resume:
        bound.pop("seed", None)  # samples may have another
    parser.set_defaults(**bound)
    args = parser.parse_args(argv)

    for name, value in bound.items():
        if name in _MAY_CHANGE:
            continue
        if getattr(args, name, None) != value:
            option = f"--{name.replace('_', '-')}"
            file = args.resume or args.generate or args.reconstruct
            parser.error(f"{file} has {option} {value}: leave {option} out")
    if checkpoint and args.epochs < checkpoint["epoch"]:
        parser.error(f"{args.resume} has had {checkpoint['epoch']} --epochs already")

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    there["cpu"] = True
    if args.device == "auto":
        args.device = next(name for name in there if there[name])
    elif not there[args.device]:
        parser.error(f"--device {args.device}: PyTorch finds none; try --device cpu")
    return args, checkpoint


# --- The run folder -------------------------------------------------------------------


def run_folder(script, args):
    """Make the folder that this call writes to, with samples/ in it, and return it.

    A fresh runs/<script>/<n>, or --out, which must be new or empty, or --resume's.
    """
    try:
        if args.resume:
            folder = Path(args.resume).parent
        elif args.out:
            folder = Path(args.out)
            if folder.exists() and any(folder.iterdir()):
                fail(f"--out {folder} is not empty: name a new folder", 2)
        else:
            runs = Path("runs", script)
            runs.mkdir(parents=True, exist_ok=True)
            taken = [int(path.name) for path in runs.iterdir() if path.name.isdigit()]
            folder = runs / str(max(taken, default=0) + 1)
            while not _made(folder):  # another run may take the number just now
                folder = runs / str(int(folder.name) + 1)
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # can it be written?
    except OSError as error:
        fail(f"cannot write to {error.filename}: {error.strerror}; choose --out DIR", 2)
    return folder


def _made(folder):
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        return True


# --- Data -----------------------------------------------------------------------------


def load_mnist(train=True):
    """MNIST's images, uint8 (n, 28, 28), and labels, int64 (n,); n is 60,000 or 10,000.

    torchvision checks the archives in data/MNIST/raw/ by their MD5 sums, downloads what
    is missing or damaged, and unpacks: here into a temporary folder, so that a read-only
    checkout works, and two runs at once. What it had to download is kept. Exits with one
    line if it can neither read an archive nor download it.
    """
    # Imported here because it takes seconds, and not every script needs it.
    from torchvision.datasets import MNIST

    raw = DATA / "MNIST" / "raw"
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch, "MNIST", "raw")
        unpacked.mkdir(parents=True)
        for archive in raw.glob("*.gz"):
            shutil.copyfile(archive, unpacked / archive.name)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                mnist = MNIST(scratch, train=train, download=True)
        except (RuntimeError, OSError, EOFError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            fail(
                f"MNIST in {raw} is damaged or incomplete. {reason}. Try git checkout data"
            )
        for archive in unpacked.glob("*.gz"):
            kept = raw / archive.name
            if not kept.exists() or not filecmp.cmp(archive, kept, shallow=False):
                with contextlib.suppress(OSError):  # if not, download again next time
                    raw.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(archive, f"{kept}.{os.getpid()}")
                    os.replace(f"{kept}.{os.getpid()}", kept)
    return mnist.data, mnist.targets


def count_steps(data, batch_size, least=1):
    """How many minibatches make an epoch.

    Exits if one would be larger than the data, or the last smaller than least: batch norm
    needs 2.
    """
    if batch_size > len(data):
        fail(f"--batch-size {batch_size}: there are only {len(data)} examples", 2)
    if (len(data) % batch_size or batch_size) < least:
        fail(f"--batch-size {batch_size} leaves a minibatch of 1 to batch norm", 2)
    return math.ceil(len(data) / batch_size)


def minibatches(data, batch_size):
    """Yield the rows of data in a new random order, batch_size at a time.

    The last minibatch holds what is left and may be smaller.
    """
    for rows in torch.randperm(len(data), device=data.device).split(batch_size):
        yield data[rows]


# --- While it trains ------------------------------------------------------------------


def mixed_precision(args):
    """A context for updates: with --bfloat16, they multiply matrices in that type.

    Weights, their gradients and Adam stay in float32. Nothing is cached, because G must
    see the weights that D has just been given.
    """
    return torch.autocast("cpu", torch.bfloat16, args.bfloat16, cache_enabled=False)


def progress(batches, steps, epoch, verbose=False):
    """A live bar around an epoch's minibatches.

    There is none (`.disable` is True) with verbose or where stdout is no terminal.
    """
    silent = verbose or not sys.stdout.isatty()
    title = f"Epoch {epoch:02d}"
    return tqdm(batches, title, steps, file=sys.stdout, disable=silent, ncols=100)


_LOWER = "start again with a lower learning rate"


def check_finite(**losses):
    """Stop the run if a loss has become NaN or infinite. The last checkpoint stays."""
    for name, value in losses.items():
        if not math.isfinite(value):
            fail(f"{name} is {value}: {_LOWER}")


@contextlib.contextmanager
def one_line_errors(run):
    """Make one line of Ctrl-C, a full disk, and BCELoss's complaint about NaN."""
    try:
        yield
    except KeyboardInterrupt:
        fail(f"interrupted; {_how_to_go_on(run)}", status=130)
    except OSError as error:
        fail(f"cannot write to {run}: {error}; {_how_to_go_on(run)}")
    except RuntimeError as error:
        if not any(x in str(error) for x in ("between 0 and 1", "device-side assert")):
            raise
        fail(f"D's output is NaN: {_LOWER}")


def _how_to_go_on(run):
    path = run / "checkpoint.pt"
    return f"go on with --resume {path}" if path.exists() else "no checkpoint as yet"


# --- Checkpoints and generators -------------------------------------------------------

# What reading a missing or damaged file ends in.
_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, LookupError)
_DAMAGED += (RuntimeError, ValueError, TypeError, AttributeError, AssertionError)


def _refuse(path, error, wanted):
    if isinstance(error, OSError) and error.filename:
        fail(f"cannot read {path}: {error.strerror}", 2)
    fail(f"{path} is no {wanted}, or it is damaged", 2)


def _own(args):
    return {name: x for name, x in vars(args).items() if name not in _ONE_CALL}


def save_checkpoint(run, script, args, parts, **numbers):
    """Write checkpoint.pt, all that resuming needs: the whole file or nothing.

    parts: {name: module or optimizer}; numbers: epoch=, history=, seconds=.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    rng = {"cpu": torch.get_rng_state()}
    if args.device != "cpu":
        rng[args.device] = torch.get_device_module(args.device).get_rng_state()
    checkpoint = {
        "script": script,
        "arguments": _own(args),
        "parts": states,
        "rng": rng,
    }
    save(checkpoint | numbers, run / "checkpoint.pt")


def save(value, path, write=torch.save):
    """torch.save, but the whole file or nothing, and an OSError on a full disk."""
    file = io.BytesIO()  # because what PyTorch makes of a full disk is a crash
    write(value, file)
    new = path.with_suffix(".new")
    try:
        new.write_bytes(file.getbuffer())
        os.replace(new, path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def load_checkpoint(path, script):
    """Read this script's checkpoint as plain values and CPU tensors. Runs no code in it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _ = checkpoint["arguments"], checkpoint["epoch"], checkpoint["rng"]["cpu"]
        if checkpoint["script"] != script:
            fail(f"{path} is a checkpoint of {checkpoint['script']}.py", 2)
    except _DAMAGED as error:
        _refuse(path, error, f"checkpoint of {script}.py")
    return checkpoint


def restore(checkpoint, parts, device):
    """Put a checkpoint's states back into modules, optimizers and random numbers."""
    try:
        for name, part in parts.items():
            part.load_state_dict(checkpoint["parts"][name])
    except _DAMAGED as error:
        fail(f"the checkpoint does not fit this version of the script: {error}", 2)
    torch.set_rng_state(checkpoint["rng"]["cpu"])
    if device != "cpu" and device in checkpoint["rng"]:
        torch.get_device_module(device).set_rng_state(checkpoint["rng"][device])


def save_generator(generator, inputs, run, script, args):
    """Export a generator to generator.pt2, which runs without the model's code.

    inputs: a tuple of example tensors of 2 or more rows; the file takes any number of
    rows. What is saved is a copy, on the CPU and in eval mode, and the run's arguments.
    """
    generator = copy.deepcopy(generator).cpu().eval()
    inputs = tuple(x[:2].cpu().clone() for x in inputs)  # they are saved, too
    rows = {0: torch.export.Dim("n")}
    program = torch.export.export(
        generator, inputs, dynamic_shapes=tuple(rows for _ in inputs)
    )
    extra = {"script": script, "arguments": json.dumps(_own(args))}
    write = functools.partial(torch.export.save, extra_files=extra)
    save(program, run / "generator.pt2", write)


def load_generator(path, script):
    """Load this script's generator.pt2 as a module on the CPU. Runs no code in it.

    Returns (module, the inputs that it was saved with, whose shapes are those it takes,
    the arguments of the run that trained it).
    """
    # torch.export.load would unpickle anything, and load compiled code, were it there.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2]: name for name in archive.namelist()}
            if any("custom_obj" in x or "aotinductor" in x for x in names):
                raise ValueError("holds more than tensors and a graph")
            if archive.testzip():
                raise ValueError("wrong checksum")
            made_by = archive.read(names["extra/script"]).decode()
            arguments = json.loads(archive.read(names["extra/arguments"]))
        if made_by != script:
            fail(f"{path} is a generator of {made_by}.py", 2)
        program = torch.export.load(path)
        return program.module(), program.example_inputs[0], arguments
    except _DAMAGED as error:
        _refuse(path, error, f"generator.pt2 of {script}.py")


# --- Pictures -------------------------------------------------------------------------


def new_figure(rows, figsize, show=False):
    """A matplotlib figure of so many panels in a column, in a window with show.

    Returns (figure, array of axes). Exits if there is no screen for the window.
    """
    if show:
        from matplotlib import pyplot

        pyplot.ion()
        figure = pyplot.figure(figsize=figsize)
        if not figure.canvas.required_interactive_framework:
            pyplot.close(figure)
            fail("--show finds no screen, or none that matplotlib can use", 2)
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=figsize, dpi=60)
        FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, squeeze=False)[:, 0]


def save_figure(figure, moving, path):
    """Write a figure in which only the artists in `moving` change from time to time.

    All else is drawn once and kept, which takes a tenth of the time. A figure in a window
    is drawn whole, and shown.
    """
    canvas = figure.canvas
    if canvas.manager:
        figure.savefig(path, dpi=60)
        canvas.draw_idle()
        canvas.start_event_loop(0.001)
        return
    if figure.stale:  # never drawn, or more than the moving artists has changed
        for artist in moving:
            artist.set_animated(True)
        canvas.draw()
        figure.background = canvas.copy_from_bbox(figure.bbox)
    canvas.restore_region(figure.background)
    for artist in moving:
        figure.draw_artist(artist)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba()))
    picture.save(path, compress_level=1)  # fast


# --- What a run ends with -------------------------------------------------------------


def frechet_distance(x, y):
    """How far two sets of points are apart, each seen as a Gaussian: 0 if both agree.

    x, y: (n, d), (m, d). See Heusel et al., 2017, on its use for GANs.
    """
    x, y = x.cpu().double(), y.cpu().double()  # not all devices have doubles
    return gaussian_distance(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T))


def gaussian_distance(mean_x, cov_x, mean_y, cov_y):
    """The squared 2-Wasserstein distance of two Gaussians, given (d,) and (d, d) of each.

    |mean_x - mean_y|^2 + tr(cov_x + cov_y - 2 (cov_x cov_y)^(1/2))
    """
    values, vectors = torch.linalg.eigh(cov_x.double())
    root_x = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root_x @ cov_y.double() @ root_x
    cross = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    means = (mean_x - mean_y).square().sum()
    return (means + cov_x.trace() + cov_y.trace() - 2 * cross).item()


def plot_losses(history, path, every=1):
    """Draw each list in history, one value every so many epochs, as a curve."""
    from matplotlib.figure import Figure  # not pyplot: needs no window

    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    for name, values in history.items():
        epochs = range(every, every * len(values) + 1, every)
        axes.plot(epochs, values, ".-" if len(values) < 50 else "-", label=name)
    axes.set(xlabel="epoch", ylabel="mean loss")
    axes.legend()
    axes.figure.savefig(path, dpi=120)


def save_film(folder, path):
    """Make one GIF of a folder's PNGs, in the order of their names, or of some 100."""
    paths = sorted(folder.glob("*.png"))
    paths = paths[: -1 : math.ceil(len(paths) / 100)] + paths[-1:]
    if not paths:
        return
    frames = [Image.open(path).copy() for path in paths]
    pauses = [150] * (len(frames) - 1) + [2000]  # milliseconds
    frames[0].save(
        path, append_images=frames[1:], save_all=True, duration=pauses, loop=0
    )


def finish(run, args, history, score, seconds, examples, every=1):
    """Write losses.png, training.gif and metrics.json; say what there is, and where.

    history: {name: [one value every so many epochs]}; score: {name: value}; examples: how
    many were trained on in these seconds. Returns what metrics.json holds.
    """
    metrics = {
        "arguments": vars(args),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "losses": history,
        "score": score,
        "seconds": round(seconds, 1),
        "examples_per_second": round(examples / seconds),
    }
    (run / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    plot_losses(history, run / "losses.png", every)
    save_film(run / "samples", run / "training.gif")
    speed = f"{metrics['examples_per_second']:,} examples a second"
    print(f"Trained in {metrics['seconds']} s on {args.device}: {speed}")
    names = sorted(path.name for path in run.iterdir() if "tfevents" not in path.name)
    print(f"In {run}: {', '.join(names)}; tensorboard --logdir {run.parent}")
    return metrics
