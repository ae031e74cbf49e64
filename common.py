"""What a reader can skip, none of it about GANs: options, MNIST, runs, distances."""

import argparse
import contextlib
import copy
import gzip
import io
import json
import math
import sys
import time
import zipfile
import zlib
from pathlib import Path

try:  # it takes seconds, in which Ctrl-C is no reason for a traceback
    import torch
    from matplotlib.figure import Figure  # not pyplot, which may open windows
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm
except KeyboardInterrupt:
    sys.exit(130)

MNIST = Path(__file__).resolve().parent / "data" / "MNIST" / "raw"


def fail(message, status=1):
    """End the program with one line; status 2 is for what the command line can mend."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status)


def one_line(error, folder=None):
    """End with one line, not a traceback, at Ctrl-C, a full disk, NaN in BCELoss."""
    path = folder and folder / "checkpoint.pt"
    go_on = f"; go on with --resume {path}" if path and path.exists() else ""
    if isinstance(error, KeyboardInterrupt):
        fail(f"interrupted{go_on}", 130)
    if isinstance(error, OSError):
        fail(f"{error}{go_on}")
    if "between 0 and 1" in str(error) or "device-side assert" in str(error):
        fail("D's output is NaN: start again with a lower learning rate")


sys.excepthook = lambda *error: one_line(error[1]) or sys.__excepthook__(*error)


def number(kind, low, high=math.inf):
    """An argparse type: an int or a float, low <= number < high."""

    def convert(text):
        if not low <= kind(text) < high:
            raise ValueError
        return kind(text)

    convert.__name__ = f"{kind.__name__} (from {low} to below {high})"  # in the message
    return convert


rate, fraction, positive = number(float, 1e-30), number(float, 0, 1), number(int, 1)


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawTextHelpFormatter):
    """--help shows the docstring as it stands, and the defaults that there are."""

    def _get_help_string(self, action):
        absent = action.default is None or action.default is False
        return action.help if absent else super()._get_help_string(action)


def make_parser(file, text, epochs, batch_size, sizes=(1, 60_000)):
    """An ArgumentParser with the options of every script. sizes: of minibatches."""
    name, size = Path(file).stem, number(int, sizes[0], sizes[1] + 1)
    about = {"usage": f"{name}.py [options]", "description": text}
    parser = argparse.ArgumentParser(f"{name}.py", **about, formatter_class=Help)
    found = torch.accelerator.current_accelerator(check_available=True)
    devices = ["cpu", found.type] if found else ["cpu"]
    parser.set_defaults(script=name, auto=devices[-1], loaded=None)
    add = parser.add_argument
    add("--epochs", type=positive, default=epochs, help="passes over the data")
    add("--batch-size", type=size, default=batch_size, help="minibatch size")
    add("--seed", type=number(int, 0, 2**63), default=0, help="of all random numbers")
    add("--device", choices=["auto", *devices], default="auto", help="where to compute")
    add("--max-steps", type=positive, metavar="N", help="a quick try: only N steps")
    add("--out", metavar="DIR", help=f"write here, not to runs/{name}/<n>")
    add("--resume", metavar="CHECKPOINT", help="go on from a run's checkpoint.pt")
    add("--generate", metavar="GENERATOR", help="only sample from a generator.pt2")
    add("--document", action="store_true", help="undo all departures from the document")
    return parser


# What belongs to one call and not to a run, and what of a run may change as it goes on.
ONE_CALL = {"auto", "device", "max_steps", "out"}
ONE_CALL |= {"resume", "generate", "loaded", "kept"}
MAY_CHANGE = {"epochs", "patience"}


def parse(parser, argv, document, one_call=("n",)):
    """Parse the command line; --document, --resume, --generate change the defaults.

    document: {option: value}. one_call: the script's options that a run does not keep.
    """
    args, kept = parser.parse_args(argv), {}
    if args.document:
        parser.set_defaults(**document)
    if args.resume and (args.generate or args.out):
        parser.error("--resume writes to its checkpoint's folder and trains on")
    if path := args.resume or args.generate:
        loaded = load(path, args.script, "run" if args.resume else "state")
        once = {*one_call} if args.resume else {*one_call, "seed"}
        kept = {name: x for name, x in loaded["args"].items() if name not in once}
        parser.set_defaults(**kept, loaded=loaded)
    args = parser.parse_args(argv)
    for name, value in kept.items():
        if name not in MAY_CHANGE and getattr(args, name, None) != value:
            parser.error(f"{path} has --{name.replace('_', '-')} {value}: leave it out")
    if args.resume and args.epochs < loaded["run"]["epoch"]:
        parser.error(f"{path} has had {loaded['run']['epoch']} --epochs already")
    args.device = args.auto if args.device == "auto" else args.device
    args.kept = {name: x for name, x in vars(args).items() if name not in ONE_CALL}
    return args


def load_mnist(train=True):
    """MNIST's images, uint8 (n, 28, 28), labels, int64 (n,); n: 60,000 or 10,000."""
    data = []
    for kind in ("images-idx3", "labels-idx1"):
        path = MNIST / f"{'train' if train else 't10k'}-{kind}-ubyte.gz"
        try:
            content = gzip.decompress(path.read_bytes())  # it tests the checksum
            data.append(bytearray(content))
        except (OSError, EOFError, zlib.error) as error:
            fail(f"{path} is missing or damaged ({error}): try git checkout data")
    images = torch.frombuffer(data[0], dtype=torch.uint8, offset=16).view(-1, 28, 28)
    return images, torch.frombuffer(data[1], dtype=torch.uint8, offset=8).long()


def write(buffer, path):
    """Write a BytesIO to a file: all or nothing. (A full disk crashes torch.save.)"""
    new = path.with_suffix(".new")
    try:
        new.write_bytes(buffer.getvalue())
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def load(path, script, what):
    """Read a checkpoint.pt ("run") or generator.pt2 ("state"), and run no code."""
    kind, loaded, file = "checkpoint.pt", None, path
    if not Path(path).is_file():
        fail(f"there is no file {path}", 2)
    with contextlib.suppress(Exception):  # a dozen kinds of them, if it is damaged
        if what == "state":  # generator.pt2 has its weights in state.pt, too
            kind = "generator.pt2"
            file = io.BytesIO(zipfile.ZipFile(path).read("archive/state.pt"))
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict) or not {"args", what} <= loaded.keys():
        fail(f"{path} is no {kind}, or it is damaged", 2)
    if loaded["args"]["script"] != script:
        fail(f"{path} is a {kind} of {loaded['args']['script']}.py", 2)
    if what == "run" and Path(path).name != kind:
        fail(f"{path} must be named {kind}: to go on writes to that name", 2)
    return loaded


def new_folder(args):
    """The folder of --resume, or --out, new or empty, or a fresh runs/<script>/<n>."""
    runs = Path("runs", args.script)
    taken = [int(path.name) for path in runs.glob("*") if path.name.isdigit()]
    folder = Path(args.out or runs / str(max(taken, default=0) + 1))
    try:
        if args.resume:
            folder = Path(args.resume).parent
        elif args.out and folder.exists() and any(folder.iterdir()):
            fail(f"--out {folder} is not empty: name a new folder", 2)
        (folder / "samples").mkdir(parents=True, exist_ok=bool(args.resume))
    except FileExistsError:
        return new_folder(args)  # another run was faster
    except OSError as error:
        fail(f"cannot write to {error.filename}: {error.strerror}; choose --out DIR", 2)
    return folder


class Run(contextlib.ExitStack):
    """Keeps the books of a run. parts: what a checkpoint holds, {name: net or such}."""

    def __init__(self, args, **parts):
        super().__init__()
        self.args, self.parts, self.stop = args, parts, False
        self.sums, self.count = {}, 0  # of losses since the last checkpoint
        self.epoch, self.step, self.examples, self.seconds = 0, 0, 0, 0.0
        self.history = {}  # {name: {epoch: value}}
        self.random = {args.device: torch.get_device_module(args.device), "cpu": torch}
        if args.resume:
            try:
                for name, part in parts.items():
                    part.load_state_dict(args.loaded["parts"][name])
            except (LookupError, RuntimeError, ValueError) as error:
                fail(f"{args.resume} does not fit this version: {error}", 2)
            vars(self).update(args.loaded["run"])
            for device in self.random.keys() & (rng := args.loaded["rng"]).keys():
                self.random[device].set_rng_state(rng[device])
        self.folder = new_folder(args)
        print(f"Writing to {self.folder}", flush=True)
        writer = SummaryWriter(self.folder, purge_step=self.step + 1)
        self.writer = self.enter_context(writer)
        bar = tqdm(total=args.epochs, initial=self.epoch, disable=None)
        self.bar = self.enter_context(bar)

    def __exit__(self, *error):
        super().__exit__(*error)
        one_line(error[1], self.folder)

    @property
    def due(self):
        """Whether this epoch prints a line, draws a picture, saves a checkpoint."""
        last = self.stop or self.epoch == self.args.epochs
        return last or self.epoch == 1 or self.epoch % self.every == 0

    @property
    def sample(self):
        """Where the picture of this step goes, a frame of the film."""
        name = f"epoch_{self.epoch:05d}_step_{self.step:06d}.png"
        return self.folder / "samples" / name

    def epochs(self, every=1):
        """Yield the epochs that are left, until run.stop. One in `every` is due."""
        self.every, start = every, time.perf_counter() - self.seconds
        self.last_step = self.step + (self.args.max_steps or math.inf)
        while self.epoch < self.args.epochs and not self.stop:
            self.epoch, self.whole = self.epoch + 1, True
            yield self.epoch
            self.seconds = time.perf_counter() - start
            self.bar.update()
            if self.due:
                self.show_means()
                self.sums, self.count = {}, 0
                now = ((name, x.get(self.epoch)) for name, x in self.history.items())
                line = ", ".join(f"{name} {x:.4g}" for name, x in now if x is not None)
                self.bar.write(f"epoch {self.epoch}: {line}")
                if self.whole:
                    self.save_checkpoint()

    def minibatches(self, *tensors):
        """Yield --batch-size rows of each tensor at a time, at last what is left."""
        order = torch.randperm(len(tensors[0]), device=tensors[0].device)
        batches = order.split(self.args.batch_size)
        for i, rows in enumerate(batches, start=1):
            self.step, self.examples = self.step + 1, self.examples + len(rows)
            yield tensors[0][rows] if len(tensors) == 1 else [x[rows] for x in tensors]
            if self.step == self.last_step:
                self.stop, self.whole = True, i == len(batches)
                return

    def log(self, **losses):
        """Add a step's losses to the means."""
        self.count += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0) + loss.detach()
        if self.count % 100 == 0:  # to read a tensor's value keeps a GPU waiting
            self.show_means()

    def show_means(self):
        """Log the mean losses since the last checkpoint."""
        means = {name: total.item() / self.count for name, total in self.sums.items()}
        self.measure(**means)
        self.bar.set_postfix(means)

    def measure(self, **values):
        """Log values of this epoch. One that is NaN or infinite stops the run."""
        for name, value in values.items():
            if not math.isfinite(value):
                fail(f"{name} is {value}: start again with a lower learning rate")
            self.writer.add_scalar(name, value, self.step)
            self.history.setdefault(name, {})[self.epoch] = value

    def save_checkpoint(self):
        """Write checkpoint.pt: all that --resume needs."""
        kept = ("epoch", "step", "examples", "seconds", "history")
        checkpoint = {
            "args": self.args.kept,
            "run": {name: getattr(self, name) for name in kept},
            "parts": {name: part.state_dict() for name, part in self.parts.items()},
            "rng": {name: x.get_rng_state() for name, x in self.random.items()},
        }
        torch.save(checkpoint, buffer := io.BytesIO())
        write(buffer, self.folder / "checkpoint.pt")

    def save_generator(self, generator, *inputs):
        """Export to generator.pt2, in eval mode. inputs: examples of 2 or more rows."""
        generator = copy.deepcopy(generator).cpu().eval()
        inputs = tuple(x[:2].cpu().clone() for x in inputs)
        rows = tuple({0: torch.export.Dim("n")} for _ in inputs)
        program = torch.export.export(generator, inputs, dynamic_shapes=rows)
        torch.export.save(program, buffer := io.BytesIO())
        state = {"args": self.args.kept, "state": generator.state_dict()}
        with zipfile.ZipFile(buffer, "a") as z, z.open("archive/state.pt", "w") as file:
            torch.save(state, file)
        write(buffer, self.folder / "generator.pt2")

    def finish(self, score):
        """Write a run's last files. score: {name: number or list}. Returns metrics."""
        speed = round(self.examples / max(self.seconds, 1e-9))
        metrics = {"arguments": self.args.kept, "torch": torch.__version__}
        metrics |= {"history": self.history, "score": score}
        metrics |= {"seconds": round(self.seconds, 1), "examples_per_second": speed}
        (self.folder / "metrics.json").write_text(json.dumps(metrics, indent=2))
        self.plot_history()
        self.save_film()
        for name, value in score.items():
            values = value if isinstance(value, list) else [value]
            print(f"{name}:", *(f"{x:.4g}" for x in values))
        print(f"{self.seconds:.1f} s, {speed:,} examples a second; see {self.folder}")
        return metrics

    def plot_history(self):
        """Draw losses.png: the losses above, and below what else was measured."""
        losses = [name for name in self.history if name.startswith("loss")]
        others = [name for name in self.history if name not in losses]
        panels = [losses, others] if others else [losses]
        figure = Figure((7, 3 * len(panels)), layout="constrained")
        for i, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(len(panels), 1, i, xlabel="epoch")
            axes.set_yscale("linear" if panel is losses else "log")
            for name in panel:
                axes.plot(*zip(*self.history[name].items()), ".-", label=name)
            axes.legend()
        figure.savefig(self.folder / "losses.png", dpi=120)

    def save_film(self):
        """Make training.gif of the samples, or of some 100 of them."""
        paths = sorted((self.folder / "samples").glob("*.png"))
        paths = paths[: -1 : len(paths) // 100 + 1] + paths[-1:]
        first, *frames = [Image.open(path) for path in paths]
        film = {"append_images": frames, "save_all": True, "loop": 0}
        pauses = [150] * len(frames) + [2000]  # milliseconds
        first.save(self.folder / "training.gif", duration=pauses, **film)


def moving_average(decay):
    """avg_fn for AveragedModel: an average that soon forgets the untrained weights."""

    def average(averaged, new, n):
        weight = min(decay, (1 + n.item()) / (10 + n.item()))
        return torch.lerp(new, averaged, weight) if new.is_floating_point() else new

    return average


def use_bfloat16(*nets):
    """Let nets multiply matrices in bfloat16, on a CPU made for it (AVX512_BF16)."""
    if not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return
    mixed = torch.autocast("cpu", torch.bfloat16)
    for net in nets:
        net.forward = mixed(net.forward)
        for layer in net.modules():
            # Not in Sigmoid: 0.999 would be 1 there, and pass no gradient.
            if isinstance(layer, torch.nn.Sigmoid):
                layer.register_forward_pre_hook(lambda _, inputs: inputs[0].float())


def gaussian(points):
    """Mean (d,) and covariance (d, d) of points (n, d), as doubles on the CPU."""
    points = points.cpu().double()
    return points.mean(0), torch.atleast_2d(torch.cov(points.T))


def frechet_distance(x, y):
    """How far apart two Gaussians are, each a mean (d,) and a covariance (d, d).

    The square of the 2-Wasserstein distance. See Heusel et al., 2017, on GANs.
    """
    (mean_x, cov_x), (mean_y, cov_y) = x, y
    values, vectors = torch.linalg.eigh(cov_x.double())
    root_x = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root_x @ cov_y.double() @ root_x).clamp(min=0).sqrt()
    means = (mean_x - mean_y).square().sum()
    return max((means + cov_x.trace() + cov_y.trace() - 2 * cross.sum()).item(), 0.0)


def compare_images(images, test_images):
    """Frechet distance of images (n, d) from test images (m, d); nearest ones (n,)."""
    parts = [torch.cdist(part, test_images).argmin(1) for part in images.split(1000)]
    distance = frechet_distance(gaussian(images), gaussian(test_images))
    return distance, torch.cat(parts)
