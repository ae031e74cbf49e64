"""The tiny utilities that the scripts share.

Nothing here is about GANs: whoever reads a script to learn can skip this file. It holds the command line that all
scripts have, the run folder, MNIST as one tensor, shuffled minibatches, checkpoints, saved generators and the files
that a run ends with.
"""

import argparse
import contextlib
import filecmp
import io
import json
import math
import os
import pickle
import platform
import shutil
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch
from tqdm import tqdm

DATA = Path(__file__).resolve().parent / "data"

# What reading a damaged file can end in, besides OSError.
DAMAGED = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    EOFError,
)


def fail(message, status=1):
    """End the program with one line on stderr and this exit status."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


# --- The command line -----------------------------------------------------------------


def number(kind, low, high=math.inf, above=False):
    """An argparse type: an `int` or a `float` from low (or `above` low) to high; anything else is refused."""

    def parse(text):
        wanted = f"{'a whole number' if kind is int else 'a number'} {'above' if above else 'of at least'} {low}"
        wanted += f" and at most {high}" if high < math.inf else ""
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if (
            not (low < value or low == value and not above)
            or not value <= high
            or value == math.inf
        ):
            raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")
        return value

    return parse


positive_int = number(int, 1)
positive_float = number(float, 0, above=True)
fraction = number(float, 0, 1)


class _Help(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Show every default but the absent ones (None and False)."""

    def _get_help_string(self, action):
        absent = action.default is None or action.default is False
        return action.help if absent else super()._get_help_string(action)


def make_parser(script, description, epochs, batch_size):
    """The options that every script has. Returns an ArgumentParser to which a script adds its own."""
    parser = argparse.ArgumentParser(
        prog=f"{script}.py", description=description, formatter_class=_Help
    )
    parser.add_argument(
        "--epochs", type=positive_int, default=epochs, help="passes over the data"
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=batch_size,
        help="examples in a minibatch",
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**63 - 1),
        default=0,
        help="of all random numbers",
    )
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda", "mps"],
        default="auto",
        help="where to compute",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=f"new or empty folder to write to, not runs/{script}/<n>",
    )
    parser.add_argument(
        "--max-steps",
        type=positive_int,
        metavar="N",
        help="stop after N steps: the quick try",
    )
    parser.add_argument(
        "--resume",
        metavar="CHECKPOINT",
        help="go on from a run's checkpoint.pt, in its folder",
    )
    parser.add_argument(
        "--generate",
        metavar="GENERATOR",
        help="no training: sample from a run's generator.pt2",
    )
    parser.add_argument(
        "--document", action="store_true", help="the document's recipe to the letter"
    )
    return parser


# What belongs to one call of a script and not to the run: a checkpoint does not bind it.
_NOT_OF_THE_RUN = {"device", "out", "max_steps", "resume", "generate", "verbose", "n"}


def parse_arguments(parser, argv, document):
    """Parse the command line, twice where --document or --resume changes the defaults.

    document: {option: value}, the defaults under --document. What is given on the command line wins over it.
    Returns (arguments, checkpoint or None). Exits with status 2 and one line if anything does not fit.
    """
    args = parser.parse_args(argv)
    if args.document:
        parser.set_defaults(**document)
    checkpoint = None
    if args.resume:
        if args.generate or args.out:
            parser.error(
                "--resume goes on in its checkpoint's folder: leave out --generate and --out"
            )
        checkpoint = load_checkpoint(args.resume, Path(parser.prog).stem)
        parser.set_defaults(**checkpoint["arguments"])
    args = parser.parse_args(argv)
    if checkpoint:
        for name, value in checkpoint["arguments"].items():
            if name != "epochs" and getattr(args, name) != value:
                option = "--" + name.replace("_", "-")
                parser.error(
                    f"{args.resume} was trained with {option} {value}: leave {option} out, or start anew"
                )
        if args.epochs < checkpoint["epoch"]:
            parser.error(
                f"--epochs {args.epochs}: {args.resume} has had {checkpoint['epoch']} epochs already"
            )
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if args.device == "auto":
        args.device = next(name for name in available if available[name])
    elif not available[args.device]:
        parser.error(
            f"--device {args.device}: PyTorch finds no such device here; try --device cpu"
        )
    return args, checkpoint


# --- The run folder -------------------------------------------------------------------


def run_folder(script, args):
    """The folder that this call writes to, with samples/ in it: a fresh runs/<script>/<n>, or --out, or --resume's.

    Exits with one line if --out holds anything or if the folder cannot be written.
    """
    try:
        if args.resume:
            folder = Path(args.resume).parent
        elif args.out:
            folder = Path(args.out)
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                fail(
                    f"--out {folder}: exists and is not empty; name a new folder (or --resume its checkpoint.pt)",
                    2,
                )
        else:
            runs = Path("runs", script)
            runs.mkdir(parents=True, exist_ok=True)
            n = 1 + max(
                (int(path.name) for path in runs.iterdir() if path.name.isdigit()),
                default=0,
            )
            while True:  # another run may take the same number at the same moment
                with contextlib.suppress(FileExistsError):
                    folder = runs / str(n)
                    folder.mkdir()
                    break
                n += 1
        (folder / "samples").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        fail(
            f"cannot write to {error.filename}: {error.strerror}; name another folder with --out",
            2,
        )
    return folder


# --- Data -----------------------------------------------------------------------------


def load_mnist(train=True, data=DATA):
    """MNIST's images as uint8 (n, 28, 28) and its labels as int64 (n,); n is 60,000, or 10,000 with train=False.

    torchvision checks the archives' MD5 sums, downloads what is missing or damaged, and unpacks. It does so in a
    temporary folder: a read-only checkout works, and so do two runs that start at once. What it had to download is
    kept. Exits with one line where an archive is damaged and there is no network.
    """
    # Imported here because it takes seconds, and not every script needs it.
    from torchvision.datasets import MNIST

    raw = Path(data, "MNIST", "raw")
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch, "MNIST", "raw")
        unpacked.mkdir(parents=True)
        for archive in raw.glob("*.gz"):
            shutil.copy(archive, unpacked)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                mnist = MNIST(scratch, train=train, download=True)
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            reason = str(error).splitlines()[0]
            fail(
                f"MNIST in {raw} is damaged or incomplete, and {reason}; `git checkout data` restores the archives"
            )
        for archive in unpacked.glob("*.gz"):
            kept = raw / archive.name
            if not kept.exists() or not filecmp.cmp(archive, kept, shallow=False):
                with contextlib.suppress(
                    OSError
                ):  # a folder that cannot be written: download again next time
                    raw.mkdir(parents=True, exist_ok=True)
                    shutil.copy(archive, kept.with_suffix(f".{os.getpid()}"))
                    os.replace(kept.with_suffix(f".{os.getpid()}"), kept)
    return mnist.data, mnist.targets


def minibatches(data, batch_size):
    """Yield the rows of data in a fresh random order, batch_size at a time; the last minibatch may be smaller."""
    for rows in torch.randperm(len(data), device=data.device).split(batch_size):
        yield data[rows]


# --- While it trains ------------------------------------------------------------------


def progress(batches, total, description, verbose=False):
    """A live bar around the minibatches; silent (`.disable` is True) if stdout is no terminal or with verbose."""
    silent = verbose or not sys.stdout.isatty()
    return tqdm(
        batches,
        description,
        total,
        file=sys.stdout,
        unit="batch",
        dynamic_ncols=True,
        disable=silent,
    )


def add_graph(writer, net, inputs):
    """TensorBoard's graph of a net, without the warnings about how it is traced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer.add_graph(net, inputs)


def how_to_go_on(run):
    """One clause that says where the last checkpoint lies."""
    path = run / "checkpoint.pt"
    return (
        f"go on with --resume {path}"
        if path.exists()
        else "no epoch was finished, so there is no checkpoint yet"
    )


def check_finite(run, **losses):
    """Stop the run if a loss has become NaN or infinite. The last checkpoint stays."""
    for name, value in losses.items():
        if not math.isfinite(value):
            fail(
                f"{name} is {value}: the training has diverged, try a smaller --lr; {how_to_go_on(run)}"
            )


@contextlib.contextmanager
def one_line_errors(run):
    """Turn Ctrl-C, a full disk and BCELoss's complaint about NaN into one line that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print()
        fail(f"interrupted; {how_to_go_on(run)}", status=130)
    except OSError as error:
        fail(
            f"cannot write to {error.filename or run}: {error.strerror}; {how_to_go_on(run)}"
        )
    except RuntimeError as error:
        if "between 0 and 1" not in str(error):
            raise
        fail(
            f"D's output is NaN: the training has diverged, try a smaller --lr; {how_to_go_on(run)}"
        )


# --- Checkpoints and generators -------------------------------------------------------


def save_checkpoint(run, script, args, parts, **numbers):
    """Write all that resuming needs to checkpoint.pt, at once or not at all.

    parts: {name: module or optimizer}. numbers: what else the script wants back (epoch, history, seconds).
    """
    rng = {"cpu": torch.get_rng_state()}
    if args.device != "cpu":
        rng[args.device] = torch.get_device_module(args.device).get_rng_state()
    checkpoint = {
        "script": script,
        "arguments": {
            name: value
            for name, value in vars(args).items()
            if name not in _NOT_OF_THE_RUN
        },
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "rng": rng,
        **numbers,
    }
    path = run / "checkpoint.pt"
    try:
        torch.save(checkpoint, path.with_suffix(".tmp"))
    except RuntimeError as error:  # what torch.save makes of a full disk
        path.with_suffix(".tmp").unlink(missing_ok=True)
        raise OSError(0, str(error).splitlines()[0], str(path)) from error
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(path, script):
    """Read a checkpoint of this script as a dict of plain values and CPU tensors; never runs code from the file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["script"] != script:
            fail(
                f"{path} is a checkpoint of {checkpoint['script']}.py, not of {script}.py",
                2,
            )
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", 2)
    except DAMAGED:
        fail(f"{path} is no checkpoint of {script}.py, or it is damaged", 2)
    return checkpoint


def restore(checkpoint, parts, device):
    """Load modules, optimizers and the state of the random numbers from a checkpoint."""
    for name, part in parts.items():
        part.load_state_dict(checkpoint["parts"][name])
    torch.set_rng_state(checkpoint["rng"]["cpu"])
    if device in checkpoint["rng"] and device != "cpu":
        torch.get_device_module(device).set_rng_state(checkpoint["rng"][device])


def save_generator(generator, inputs, run, script):
    """Export a generator to a file that runs without its code, for any number of rows of its inputs.

    inputs: a tuple of example tensors, at least 2 rows each. Exported from a copy on the CPU, in eval mode.
    """
    state = generator.state_dict()
    device = next(iter(state.values())).device
    generator.cpu().eval()
    n = torch.export.Dim("n")
    inputs = tuple(x.cpu() for x in inputs)
    shapes = tuple({0: n} for _ in inputs)
    program = torch.export.export(generator, inputs, dynamic_shapes=shapes)
    torch.export.save(program, run / "generator.pt2", extra_files={"script": script})
    generator.to(device)


def load_generator(path, script):
    """Load a generator that `save_generator` wrote for this script, as a module on the CPU; runs no code of the file's.

    Exits with one line if the file is missing, damaged, or another script's.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise ValueError("wrong checksum")
            names = {name.split("/", 1)[1]: name for name in archive.namelist()}
            made_by = archive.read(names["extra/script"]).decode()
            for name in (
                names.values()
            ):  # a pickle that holds more than tensors could run anything
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                if name.endswith(
                    "_config.json"
                ) and b'"use_pickle": true' in archive.read(name):
                    raise ValueError("pickled weights")
        if made_by != script:
            fail(f"{path} is a generator of {made_by}.py, not of {script}.py", 2)
        return torch.export.load(path).module()
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}", 2)
    except DAMAGED:
        fail(
            f"{path} is no generator of {script}.py (a run's generator.pt2), or it is damaged",
            2,
        )


# --- What a run ends with -------------------------------------------------------------


def frechet_distance(x, y):
    """The Frechet distance (squared 2-Wasserstein) between two Gaussians with the means and covariances of x and y.

    x, y: (n, d) and (m, d). Returns |mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), a float.
    """
    x, y = x.double().cpu(), y.double().cpu()
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(cov_x)
    root_x = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root_x @ cov_y @ root_x).clamp(min=0).sqrt().sum()
    return (
        (x.mean(0) - y.mean(0)).square().sum()
        + cov_x.trace()
        + cov_y.trace()
        - 2 * cross
    ).item()


def plot_losses(history, path):
    """Draw each list of history (one value an epoch) as a curve."""
    from matplotlib.figure import Figure  # not pyplot: no window, no state to close

    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    for name, values in history.items():
        axes.plot(range(1, len(values) + 1), values, label=name)
    axes.set(xlabel="epoch", ylabel="mean loss")
    axes.legend()
    axes.figure.savefig(path, dpi=120)


def save_film(folder, path, milliseconds=150):
    """Join the PNGs of a folder, in the order of their names, into a GIF that pauses on the last."""
    from PIL import Image

    frames = [Image.open(picture) for picture in sorted(folder.glob("*.png"))]
    times = [milliseconds] * (len(frames) - 1) + [2000]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=times, loop=0
    )


def finish(run, args, history, score, seconds, examples):
    """Write losses.png, training.gif and metrics.json, and print what was reached and where it lies.

    history: {name: [one value an epoch]}. score: {name: value}. Returns what metrics.json holds.
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
    plot_losses(history, run / "losses.png")
    save_film(run / "samples", run / "training.gif")
    print(
        f"{metrics['seconds']} s, {metrics['examples_per_second']} examples a second, on {args.device}"
    )
    print(f"{run}/ holds {', '.join(sorted(path.name for path in run.iterdir()))}")
    return metrics
