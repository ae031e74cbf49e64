"""A GAN that draws a curve, one point (x, y) at a time.

Mirrors document 4, 3.1 to 3.4, and exercises 3.1 to 3.3. A cloud of points becomes an
arc, and the arc finds the curve. It takes a minute or two.

    python curve_gan.py                        # y = 1.08^x
    python curve_gan.py --curve sine           # exercises 3.1 to 3.3
    python curve_gan.py --resume runs/curve_gan/1/checkpoint.pt --patience 400
    python curve_gan.py --generate runs/curve_gan/1/checkpoint.pt --n 500
    python curve_gan.py --document             # the document's own recipe

Open training.gif, new_data.png, losses.png. The run ends with error, in y (good: below
0.005), least and most, points in the emptiest and the fullest tenth of x (good: above
0.5, below 2), and outside, points beyond the range of x (below 0.02). EarlyStop watches
the worst, gdif, 1 at these limits. Next: --document, where gdif is the error alone.
"""

# 文档 4：第三章：生成对抗网络：形状和数量生成

import argparse
import copy

import torch
from torch import nn

import common

# What --document brings back. error and least with only this brought back (seed 0).
DOCUMENT = {
    "standardize": False,  # 0.023, 0.00: points up to 50 are too large for the nets
    "dropout": 0.3,  # 0.0005, 0.79: no help to D, and more work
    "r1": 0.0,  # 0.012, 0.11: D grows too steep to learn from
    "negative_slope": 0.0,  # 0.0004, 0.86: ReLU alone does no harm here
    "lr_G": 0.0005,  # 0.0048, 0.80: slow
    "lr_D": 0.0005,  # 0.0010, 0.91: slow
    "beta1": 0.9,  # 0.0035, 0.53: the other net has changed; old gradients mislead
    "average": False,  # 0.0010, 0.85: G circles its goal; the average is nearer
    "watch": "error",  # see EarlyStop
    "patience": 1000,
    "epochs": 10_000,
}  # all of them: 0.58, 0.52; none, the default: 0.0006, 0.90
ABOUT = {"error": "in y, a share of its variance; good: below 0.005"}
ABOUT["least"] = "points in the emptiest tenth of x, 1 is fair; good: above 0.5"
ABOUT["most"] = "points in the fullest tenth; good: below 2"
ABOUT["outside"] = "share of points beyond the range of x; good: below 0.02"

# (y as a function of x, its label, range of x, limits of y in figures)
CURVES = {
    "exponential": (lambda x: 1.08**x, "1.08^x", (0, 50), (0, 50)),
    "sine": (torch.sin, r"\sin(x)", (-5, 5), (-1.2, 1.2)),  # 练习 3.1, 3.2, 3.3
    "cosine": (torch.cos, r"\cos(x)", (-5, 5), (-1.2, 1.2)),
    "quadratic": (torch.square, "x^2", (-5, 5), (-2, 27)),
    "inverted-u": (lambda x: 4 * x - x**2 / 12.5, "4x-x^2/12.5", (0, 50), (-2, 54)),
}


# %% 3.2.1
def create_data(curve, observations=2048):
    """Listing 3.1: points on the curve, (observations, 2), with uniform x."""
    f, _, (low, high), _ = CURVES[curve]
    train_data = torch.zeros((observations, 2))
    train_data[:, 0] = low + (high - low) * torch.rand(observations)
    train_data[:, 1] = f(train_data[:, 0])
    return train_data


def plot_data(train_data, curve, path, title, fake_samples=None):
    """Listing 3.2: draw points (n, 2), and over them those of G (m, 2), if given."""
    _, label, x_range, y_limits = CURVES[curve]
    axes = common.Figure(figsize=(8, 6), dpi=60, layout="constrained").subplots()
    axes.plot(*train_data.cpu().T, ".", c="r", alpha=0.1)
    axes.plot([], [], ".", c="r", label="real samples")  # not faint, in the legend
    if fake_samples is not None:
        axes.plot(*fake_samples.cpu().T, "*", c="g", label="generated samples")
    axes.set(xlabel="values of x", ylabel=f"values of $y={label}$", title=title)
    axes.set(xlim=x_range, ylim=y_limits)
    axes.figure.legend(loc="outside upper right", ncols=2)
    axes.figure.savefig(path)


# %% 3.3.1
def Discriminator(dropout, negative_slope):
    """Listing 3.3: points (batch, 2) to the probability of being real (batch, 1)."""
    return nn.Sequential(
        nn.Linear(2, 256),
        nn.LeakyReLU(negative_slope),  # ReLU, if negative_slope is 0
        nn.Dropout(dropout),  # none, if dropout is 0
        nn.Linear(256, 128),
        nn.LeakyReLU(negative_slope),
        nn.Dropout(dropout),
        nn.Linear(128, 64),
        nn.LeakyReLU(negative_slope),
        nn.Dropout(dropout),
        nn.Linear(64, 1),
        nn.Sigmoid(),
    )


# %% 3.3.2
def Generator(negative_slope):
    """Listing 3.4: noise (batch, 2) to points (batch, 2)."""
    return nn.Sequential(
        nn.Linear(2, 16),
        nn.LeakyReLU(negative_slope),
        nn.Linear(16, 32),
        nn.LeakyReLU(negative_slope),
        nn.Linear(32, 2),
    )


# %% 3.3.3
def performance(fake_samples, curve):
    """The mean squared error in y of points (n, 2)."""
    real = CURVES[curve][0](fake_samples[:, 0])
    return nn.functional.mse_loss(fake_samples[:, 1], real)


# Listing 3.5: stop says True when gdif has not fallen for `patience` calls of it.
# The trap: points that crowd at the flat left end have hardly any error. --document,
# seed 0, is best at epoch 45 (0.00002). It stops at 1045. (The document shows 1025
# last, of every 25th: its best was one of 25 to 49, before the points had any shape.)
# And it saves the last G. So gdif here sees x, too, and the best G is saved.
class EarlyStop:
    def __init__(self, patience=1000):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif
        self.min_gdif = float("inf")

    def stop(self, gdif):
        self.steps = 0 if gdif < self.min_gdif else self.steps + 1
        self.min_gdif = min(gdif, self.min_gdif)
        return self.steps >= self.patience


@torch.no_grad()
def quality(fake_samples, curve, train_data):
    """performance, and what it misses: how x is spread. See ABOUT."""
    fake_samples, variance = fake_samples.cpu(), train_data[:, 1].var().item()
    x, (low, high) = fake_samples[:, 0], CURVES[curve][2]
    shares = torch.histc(x, 10, low, high) / len(x) * 10
    error = performance(fake_samples, curve).item() / variance
    score = {"error": error, "least": shares.min().item(), "most": shares.max().item()}
    return score | {"outside": ((x < low) | (x > high)).float().mean().item()}


def gap(watch, error, least, most, outside):
    """gdif: what EarlyStop wants small. If it watches quality, 1 is the limit."""
    if watch == "error":  # the document's measure, as a share
        return error
    return max(error / 0.005, 2 * (1 - least), most - 1, outside / 0.02)


# %% 3.4.1
# Balance: D says 0.5 to all. Then each of the three losses is ln 2 = 0.69.
def train_D_on_real(real_samples, real_labels, D, loss_fn, optimD, r1):
    """Listing 3.6: update D on real points (batch, 2). Returns the loss."""
    real_samples.requires_grad_(r1 > 0)  # for the penalty
    optimD.zero_grad()
    logits = D[:-1](real_samples)
    out_D = D[-1](logits)  # the sigmoid, D's last layer: (batch, 1)
    loss_D = loss_fn(out_D, real_labels)
    penalty = 0
    if r1:  # a penalty on the gradient of D's logits (Mescheder et al., 2018)
        (grad,) = torch.autograd.grad(logits.sum(), real_samples, create_graph=True)
        penalty = r1 / 2 * grad.square().sum(1).mean()
    (loss_D + penalty).backward()
    optimD.step()  # (the document calls this 反向传播, which is backward())
    return loss_D.detach()


def train_D_on_fake(fake_labels, D, G, loss_fn, optimD):
    """Listing 3.7: update D on a point of G for each label. Returns the loss."""
    noise = torch.randn((len(fake_labels), 2), device=fake_labels.device)
    fake_samples = G(noise).detach()  # (the document has none: G would get gradients)
    optimD.zero_grad()
    out_D = D(fake_samples)
    loss_D = loss_fn(out_D, fake_labels)
    loss_D.backward()
    optimD.step()
    return loss_D.detach()  # else the sum of losses would keep every graph


def train_G(real_labels, D, G, loss_fn, optimG):
    """Listing 3.8: update G to fool D. Returns the loss and the points (batch, 2)."""
    noise = torch.randn((len(real_labels), 2), device=real_labels.device)
    optimG.zero_grad()
    fake_samples = G(noise)
    out_G = D(fake_samples)
    loss_G = loss_fn(out_G, real_labels)
    loss_G.backward(inputs=list(G.parameters()))  # no gradients for D
    optimG.step()
    return loss_G.detach(), fake_samples.detach()


def test_epoch(epoch, fake_samples, train_data, curve, path):
    """Listing 3.9: draw G's points (n, 2) over the data. (Run prints the losses.)"""
    plot_data(train_data, curve, path, f"epoch {epoch}", fake_samples)


# %% The options
def parse(argv):
    parser = common.make_parser("curve_gan", __doc__, 1000, 128, sizes=(1, 2048))
    add, flag = parser.add_argument, argparse.BooleanOptionalAction
    add("--curve", choices=list(CURVES), default="exponential", help="what to draw")
    add("--standardize", action=flag, default=True, help="scale points for the nets")
    add("--dropout", type=common.fraction, default=0.0, help="rate of dropout in D")
    add("--r1", type=common.number(float, 0), default=0.1, help="gradient penalty of D")
    add("--negative-slope", type=common.fraction, default=0.2, help="0: ReLU")
    add("--lr-G", type=common.rate, default=0.008, help="G's learning rate")
    add("--lr-D", type=common.rate, default=0.001, help="D's learning rate")
    add("--beta1", type=common.fraction, default=0.0, help="Adam's first beta")
    add("--average", action=flag, default=True, help="draw with the average of G")
    add("--watch", choices=["quality", "error"], default="quality", help="for the stop")
    add("--patience", type=common.positive, default=200, help="epochs with no progress")
    add("--n", type=common.positive, default=128, help="points for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n points with a saved generator."""
    train_data = create_data(args.curve)
    G = nn.Sequential(Generator(args.negative_slope), nn.Linear(2, 2))
    G.load_state_dict(args.checkpoint["parts"]["best_G"])
    path = common.new_folder(args) / "samples" / "generated.png"
    new_data = G(torch.randn((args.n, 2))).detach()
    plot_data(train_data, args.curve, path, f"{args.n} generated samples", new_data)
    print(path)


# %% 3.2.2, 3.3.3, and listing 3.10
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device, curve, r1 = args.device, args.curve, args.r1
    train_data = create_data(curve).to(device)
    mean, std = torch.zeros(2).to(device), torch.ones(2).to(device)
    if args.standardize:  # the nets see points of mean 0 and deviation 2
        mean, std = train_data.mean(0), train_data.std(0) / 2
    scaled_data = (train_data - mean) / std
    to_units = nn.Linear(2, 2).to(device)  # brings G's points back: std * x + mean
    to_units.load_state_dict({"weight": std.diag(), "bias": mean})
    D = Discriminator(args.dropout, args.negative_slope).to(device)
    G = Generator(args.negative_slope).to(device)
    average_G, best_G = copy.deepcopy(G), nn.Sequential(copy.deepcopy(G), to_units)
    loss_fn, adam = nn.BCELoss(), {"betas": (args.beta1, 0.999), "fused": True}
    optimD = torch.optim.Adam(D.parameters(), lr=args.lr_D, **adam)
    optimG = torch.optim.Adam(G.parameters(), lr=args.lr_G, **adam)
    stopper = EarlyStop(args.patience)
    real_labels = torch.ones((args.batch_size, 1)).to(device)
    fake_labels = torch.zeros((args.batch_size, 1)).to(device)
    fixed_noise = torch.randn((4096, 2)).to(device)  # for the stop, and to draw

    parts = {"G": G, "D": D, "average_G": average_G, "best_G": best_G}
    parts |= {"optimG": optimG, "optimD": optimD, "stopper": stopper}
    with common.Run(args, **parts) as run:
        plot_data(train_data, curve, run.folder / "data.png", f"${CURVES[curve][1]}$")
        print(f"Pairs (x, y), as in batch0:\n{train_data[:3]}")
        last = args.watch == "error"  # the document saves the last G
        stopper.patience = args.patience  # --resume may have raised it
        for epoch in run.epochs(every=25):
            for (real,) in run.minibatches(scaled_data):  # DataLoader: 16 of (128, 2)
                n = len(real)
                loss_D = train_D_on_real(real, real_labels[:n], D, loss_fn, optimD, r1)
                loss_D += train_D_on_fake(fake_labels[:n], D, G, loss_fn, optimD)
                loss_G, fake_samples = train_G(real_labels[:n], D, G, loss_fn, optimG)
                # (The document divides by the last index: 16/15 of the mean.)
                run.log(loss_D=loss_D, loss_G=loss_G)
                common.update_average(average_G, G, run.step if args.average else 1)
            samples = to_units(average_G(fixed_noise)).detach()
            seen = samples if not last else to_units(fake_samples)  # G's last minibatch
            gdif = gap(args.watch, **quality(seen, curve, train_data))
            if stopper.stop(gdif):
                best = f"{epoch - stopper.steps} (gdif {stopper.min_gdif:.2g})"
                run.stop = f"no better since {best}; to go on, raise --patience"
            if stopper.steps == 0 or last:
                best_G[0].load_state_dict(average_G.state_dict())
            if run.due or run.stop:
                run.log(gdif=gdif)
                test_epoch(epoch, samples[:128], train_data, curve, run.sample)
        kept = run.epoch if last else run.epoch - stopper.steps
        print(f"Saved: G of epoch {kept}")

        # 3.4.2. TorchScript is deprecated, so torch.export. It is in eval mode already.
        run.export(best_G, fixed_noise)
        with (run.folder / "generator.pt2").open("rb") as file:
            new_G = torch.export.load(file).module()
        new_data = new_G(torch.randn((4096, 2)))
        path = run.folder / "new_data.png"  # (the document's title says Inverted-U)
        plot_data(train_data, curve, path, "new data", new_data[:128].detach())
        lines = {"loss_D": (1.386, "2 ln 2: D says 0.5"), "loss_G": (0.693, "ln 2")}
        lines |= {} if last else {"gdif": (1, "the limit")}
        return run.finish(quality(new_data, curve, train_data), ABOUT, lines, kept)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the nets are small: more would wait for each other
    main()
