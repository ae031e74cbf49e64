"""What the scripts share, none of it about GANs: options, MNIST, runs, a judge."""

import argparse
import contextlib
import copy
import gzip
import io
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure  # not pyplot, which may open windows
from PIL import Image
from torch import nn
from torch.utils.tensorboard import SummaryWriter


def number(kind, low, high=math.inf):
    """An argparse type: an int or a float, low <= number < high."""

    def number(text):
        if low <= (value := kind(text)) < high:
            return value
        raise argparse.ArgumentTypeError(f"{text} is not from {low} to below {high}")

    return number


DATA = Path(__file__).resolve().with_name("data")
HELP = argparse.ArgumentDefaultsHelpFormatter, argparse.RawTextHelpFormatter
# Options that fit --generate and --resume; what a checkpoint does not keep; a hint.
FITTING = {"--generate": {"--generate", "--out", "--seed", "--n", "--digits"}}
FITTING["--resume"] = {"--resume", "--device", "--max-steps", "--epochs", "--patience"}
ONE_CALL = {"checkpoint", "generate", "resume", "out", "max_steps", "device"}
LOWER = "if the code is right, start again with a lower learning rate"
rate, fraction, positive = number(float, 1e-30), number(float, 0, 1), number(int, 1)


def make_parser(name, text, epochs, batch_size, sizes=(1, 60_000)):
    """An ArgumentParser with the options of every script. sizes: of minibatches."""
    how = {"formatter_class": type("Help", HELP, {}), "allow_abbrev": False}
    parser = argparse.ArgumentParser(f"{name}.py", f"{name}.py [options]", text, **how)
    parser.set_defaults(script=name, **dict.fromkeys(ONE_CALL))
    gpu = torch.accelerator.current_accelerator(check_available=True)
    devices, none = ["cpu", gpu.type] if gpu else ["cpu"], argparse.SUPPRESS
    size, add = number(int, sizes[0], sizes[1] + 1), parser.add_argument
    add("--epochs", type=positive, default=epochs, help="passes over the data")
    add("--batch-size", type=size, default=batch_size, help="rows of a minibatch")
    add("--seed", type=number(int, 0, 2**63), default=0, help="of all random numbers")
    add("--device", choices=devices, default=devices[-1], help="where to compute")
    add("--max-steps", type=positive, default=none, help="a quick try: so many steps")
    add("--out", type=Path, default=none, help=f"write here, not to runs/{name}/<n>")
    add("--resume", type=Path, default=none, help="go on from this checkpoint.pt")
    add("--generate", type=Path, default=none, help="only sample, by a checkpoint.pt")
    add("--document", action="store_true", help="undo all departures from the document")
    return parser


def parse(parser, argv, document):
    """Options: those given, else the checkpoint's, else --document's, else defaults."""
    if argv is None:  # in a notebook, the command line is the kernel's
        argv = [] if sys.argv[0].endswith("kernel_launcher.py") else sys.argv[1:]
    args = parser.parse_args(argv)
    given = {word.partition("=")[0] for word in argv if word.startswith("--")}
    way = "--generate" if args.generate else "--resume" if args.resume else "training"
    parser.set_defaults(**document if args.document else {})
    if path := args.generate or args.resume:
        try:  # to read it runs no code in it
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            if checkpoint["args"]["script"] != args.script:
                raise ValueError(f"it is of {checkpoint['args']['script']}.py")
            parser.set_defaults(**checkpoint["args"], checkpoint=checkpoint)
        except Exception as error:  # noqa: BLE001 (a dozen kinds, if it is damaged)
            parser.error(f"{path} is no checkpoint.pt of this script: {error!r:.80}")
    for option in given - FITTING.get(way, given - {"--n", "--digits"}):
        parser.error(f"{option} does not go with {way}: leave it out")
    return parser.parse_args(argv)


def load_mnist(train=True):
    """MNIST's images, uint8 (n, 28, 28), labels, int64 (n,); n: 60,000 or 10,000."""
    data = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = DATA / f"MNIST/raw/{'train' if train else 't10k'}-{kind}-ubyte.gz"
        try:
            content = bytearray(gzip.decompress(path.read_bytes()))
        except Exception as error:  # noqa: BLE001 (of four kinds, if it is damaged)
            raise SystemExit(f"error: {path}: {error}: try git checkout data") from None
        data.append(torch.frombuffer(content, dtype=torch.uint8, offset=header))
    return data[0].view(-1, 28, 28), data[1].long()


def write(path, save, *what):
    """Call save(*what, file), so that all of the file is written, or none."""
    save(*what, buffer := io.BytesIO())  # to a full disk, torch.save can crash Python
    new = path.with_suffix(".new")
    try:
        new.write_bytes(buffer.getvalue())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def new_folder(args):
    """Make --out, new or empty, or the next runs/<script>/<n>; or find --resume's."""
    given = args.out or args.resume and args.resume.parent
    if args.out and args.out.is_dir() and any(args.out.iterdir()):
        raise SystemExit(f"error: --out {args.out} is not empty: name a new one")
    for n in range(1, 10**9):
        folder = given or Path("runs", args.script, str(n))  # if there is one, n + 1
        try:
            folder.mkdir(parents=True, exist_ok=bool(given))
            (folder / "samples").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()  # may we write there?
            return folder
        except OSError as error:
            if given or not (isinstance(error, FileExistsError) and folder.exists()):
                raise SystemExit(f"error: cannot write there: {error}") from None


class Run(contextlib.AbstractContextManager):
    """The books of a run: folder, counts, means, checkpoints, pictures. How to use it:

    with Run(args, G=G, optim_G=optim_G) as run:  # all that --resume needs
        for epoch in run.epochs(every=5):  # one of 5 is due; run.stop = "why" ends it
            for (x,) in run.minibatches(data):
                run.log(loss_G=train(x))  # tensors or numbers; run.report() has means
            if run.due:
                draw(G, run.sample)
        run.finish({"error": error(G)}, {"error": "0 is perfect"})
    """

    def __init__(self, args, **parts):
        self.args, self.parts, self.due, self.stop = args, parts, False, ""
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.values, self.history = {}, {}  # {name: [value]}, {name: {step: mean}}
        self.random = {args.device: torch.get_device_module(args.device), "cpu": torch}
        if state := args.checkpoint:
            vars(self).update(state["run"])
            for name, x in parts.items():
                getattr(x, "load_state_dict", vars(x).update)(state["parts"][name])
            for device in self.random.keys() & state["random"].keys():
                self.random[device].set_rng_state(state["random"][device])
        self.last_step = self.step + (args.max_steps or math.inf)
        self.folder = new_folder(args)
        self.checkpoint = args.resume or self.folder / "checkpoint.pt"
        print(f"Writing to {self.folder}", flush=True)
        self.writer = SummaryWriter(self.folder, purge_step=self.step + 1)

    def __exit__(self, kind, error, _):
        self.writer.close()
        path = self.checkpoint
        go_on = f"go on with --resume {path}" if path.exists() else "nothing is saved"
        if kind is KeyboardInterrupt or getattr(error, "errno", 0) == 28:  # disk full
            raise SystemExit(f"stopped by {error!r}: {go_on}") from None
        if isinstance(error, Exception):
            nets = (x for x in self.parts.values() if isinstance(x, nn.Module))
            if not all(x.isfinite().all() for net in nets for x in net.parameters()):
                raise SystemExit(f"error: weights are NaN: {LOWER}") from None
            getattr(error, "add_note", print)(go_on)  # Python 3.10 has no notes

    @property
    def sample(self):
        """Where the picture of this step goes, a frame of the film."""
        return self.folder / f"samples/epoch_{self.epoch:05d}_step_{self.step:06d}.png"

    def epochs(self, every=1):
        """Yield the epochs that are left, until run.stop says why to end."""
        start, last = time.perf_counter() - self.seconds, self.args.epochs
        while self.epoch < last and not self.stop:
            self.epoch += 1
            self.due = self.epoch % every == 0 or self.epoch in (1, last)
            yield self.epoch
            self.seconds = time.perf_counter() - start
            if self.due or self.stop:
                self.save()
        why = self.stop or f"--epochs {last} (raise it to go on)"
        print(f"Stopped at epoch {self.epoch}: {why}. Judging ...", flush=True)

    def minibatches(self, *tensors):
        """Yield --batch-size rows of each tensor at a time, shuffled, then the rest."""
        order = torch.randperm(len(tensors[0]), device=tensors[0].device)
        for rows in order.split(self.args.batch_size):
            self.step += 1
            yield [tensor[rows] for tensor in tensors]
            if self.step == self.last_step:
                self.due, self.stop = True, f"--max-steps {self.args.max_steps}"
                return

    def log(self, **values):
        """Note tensors or numbers. (To read a tensor's value would make a GPU wait.)"""
        for name, value in values.items():
            self.values.setdefault(name, []).append(torch.as_tensor(value).detach())

    def report(self):
        """Print, and keep, the means of what was logged since the last report."""
        means = {name: (sum(x) / len(x)).item() for name, x in self.values.items()}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise SystemExit(f"error: {name} is {mean}: {LOWER}")
            self.writer.add_scalar(name, mean, self.step)
            self.history.setdefault(name, {})[self.step] = mean
        now = f"epoch {self.epoch}/{self.args.epochs}, step {self.step}"
        if line := ", ".join(f"{name} {mean:.4g}" for name, mean in means.items()):
            print(f"{now}: {line}", flush=True)
        self.values = {}

    def save(self):
        """Report, and write checkpoint.pt: all that --resume and --generate need."""
        self.report()
        args = {name: x for name, x in vars(self.args).items() if name not in ONE_CALL}
        run = {x: vars(self)[x] for x in ("epoch", "step", "seconds", "history")}
        state_of = lambda part: getattr(part, "state_dict", vars(part).copy)()
        parts = {name: state_of(part) for name, part in self.parts.items()}
        random = {name: x.get_rng_state() for name, x in self.random.items()}
        state = {"args": args, "run": run, "parts": parts, "random": random}
        write(self.checkpoint, torch.save, state)

    def export(self, net, *inputs):
        """Write generator.pt2. inputs: examples of what net takes, two rows or more."""
        net, rows = copy.deepcopy(net).cpu().eval(), [{0: torch.export.Dim("n")}]
        inputs = tuple(x[:2].cpu() for x in inputs)
        program = torch.export.export(net, inputs, dynamic_shapes=rows * len(inputs))
        write(self.folder / "generator.pt2", torch.export.save, program)

    def finish(self, score, about, lines=None, kept=None):
        """Write the last files. Print score, {name: number or list}, and about it."""
        # In losses.png, lines are {curve: (level, label)}, kept is the saved epoch.
        speed = round(self.step * self.args.batch_size / self.seconds)
        book = {"score": score, "seconds": self.seconds, "examples_per_second": speed}
        args = vars(self.args) | {"checkpoint": None}
        book |= {"history": self.history, "torch": torch.__version__, "arguments": args}
        text = json.dumps(book, indent=2, default=str).encode()
        write(self.folder / "metrics.json", lambda file: file.write(text))
        figure = Figure((7, 3 * len(self.history)), dpi=120, layout="constrained")
        figure.suptitle(f"{args['script']}.py, seed {args['seed']}")
        for i, (name, means) in enumerate(self.history.items(), start=1):
            axes = figure.add_subplot(len(self.history), 1, i, xlabel="epoch")
            epochs = [step * self.epoch / self.step for step in means]
            axes.plot(epochs, means.values(), ".-", label=name)
            if level := (lines or {}).get(name):
                axes.axhline(level[0], c="grey", ls=":", label=level[1])
            if kept:
                axes.axvline(kept, c="grey", label="saved generator")
            axes.set(yscale="linear" if name.startswith("loss") else "log")
            axes.legend()
        write(self.folder / "losses.png", figure.savefig)
        paths = sorted(self.folder.glob("samples/epoch_*.png"), reverse=True)
        if film := [Image.open(path) for path in paths[:: len(paths) // 100 + 1]]:
            more = {"save_all": True, "append_images": film[-2::-1], "duration": 150}
            save = lambda file: film[-1].save(file, "GIF", loop=0, **more)
            write(self.folder / "training.gif", save)
        for name, value in score.items():
            values = value if isinstance(value, list) else [value]
            print(f"{name}:", *(f"{x:.3g}" for x in values), f"({about[name]})")
        print(f"{self.seconds:.0f} s, {speed:,} examples a second. Look at:")
        print(*paths[:1], *self.folder.glob("losses.png"), *self.folder.glob("*.gif"))
        print(f"More: python {args['script']}.py --generate {self.checkpoint} --seed 1")
        return book


def update_average(average, net, step):
    """Average net's last steps, about a 15th (Karras et al., 2024). Step 1 copies."""
    if step % 10 == 1:  # one step of ten tells as much, and costs less
        for old, new in zip(average.state_dict().values(), net.state_dict().values()):
            weight = 14 / (14 + step // 10)
            old.lerp_(new, weight) if old.is_floating_point() else old.copy_(new)


def frechet_distance(points, mean, covariance):
    """Squared 2-Wasserstein distance of points (n, d), as a Gaussian, from another."""
    points, covariance = points.cpu().double(), covariance.double()
    ours = points.T.cov()
    roots = torch.linalg.eigvals(ours @ covariance).real.clamp(0).sqrt()
    means = (points.mean(0) - mean).square().sum()
    return max((means + (ours + covariance).trace() - 2 * roots.sum()).item(), 0.0)


def make_judge():
    """A classifier of images (n, 1, 28, 28) in [-1, 1]. net[:-1] makes its features."""
    convs = nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    rest = nn.Flatten(), nn.Linear(1568, 64), nn.ReLU(), nn.Linear(64, 10)
    return nn.Sequential(*convs, *rest)


@torch.no_grad()
def judge(images, test_images=None):
    """Images (n, 1, 28, 28) in [-1, 1] to fd, and to the digits (n,) that they show."""
    # fd: as FID (Heusel et al., 2017), but by the judge; from the test images.
    state = torch.load(DATA / "judge.pt", weights_only=True)
    real = state.pop("mean"), state.pop("covariance")  # of the test images' features
    (net := make_judge()).load_state_dict(state)
    if test_images is not None:
        real = (x := net[:-1](test_images.cpu()).double()).mean(0), x.T.cov()
    features = net[:-1](images.cpu())
    return frechet_distance(features, *real), net[-1](features).argmax(1)
