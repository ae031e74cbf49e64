"""A GAN that draws a curve, one point (x, y) at a time.

Mirrors document 4, 第三章：生成对抗网络：形状和数量生成, 3.1 to 3.4, exercises 3.1 to 3.3.

    python curve_gan.py                        # y = 1.08^x
    python curve_gan.py --curve sine           # exercises 3.1 to 3.3
    python curve_gan.py --document             # the document's own recipe
    python curve_gan.py --resume runs/curve_gan/1/checkpoint.pt
    python curve_gan.py --generate runs/curve_gan/1/generator.pt2 --n 500

It ends with four numbers. In brackets, the aim:
error: the mean squared error in y, as a share of the variance of y (below 0.005)
least: points in the emptiest tenth of the range of x, where 1 is fair (above 0.5)
most: points in the fullest tenth (below 2)
outside: the share of points beyond the range (below 0.02)
"""

import argparse
import copy

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

# What --document brings back, and what a run ends with if only that is brought back:
# error and least, of --curve exponential and of cosine. Seed 0; by default 0.0004 0.92,
# 0.0006 0.86.
DOCUMENT = {
    "standardize": False,  # 0.0136 0.00, 0.0015 0.92: points up to 50 are too large
    "dropout": 0.3,  # 0.0132 0.50, 0.0029 0.88: D forgets what is off the curve
    "r1": 0.0,  # 0.0031 0.25, 0.0025 0.33: D grows too steep to learn from
    "slope": 0.0,  # 0.0009 0.87, 0.0151 0.85: ReLU's units die
    "lr_G": 0.0005,  # 0.0008 0.90, 0.0288 0.80: too slow. With lr_D, one departure
    "lr_D": 0.0005,
    "beta1": 0.9,  # 0.0046 0.58, 0.2439 0.53: old gradients mislead
    "average": 0.0,  # 0.0004 0.86, 0.0009 0.87: this seed can do without it
    # The stop. The document's sees only the error in y. A generator that has collapsed
    # into one point of the curve has no error. And it saves the last generator.
    "watch": "error",
    "patience": 1000,
    "epochs": 10_000,
}  # all of them: 0.0618 0.06, 0.0061 0.34

# (y as a function of x, its label, range of x, limits of y)
CURVES = {
    "exponential": (lambda x: 1.08**x, "1.08^x", (0, 50), (0, 50)),
    "sine": (torch.sin, "sin(x)", (-5, 5), (-1.2, 1.2)),
    "cosine": (torch.cos, "cos(x)", (-5, 5), (-1.2, 1.2)),
    "quadratic": (torch.square, "x^2", (-5, 5), (-2, 27)),
    "inverted-u": (lambda x: 4 * x - x**2 / 12.5, "4x-x^2/12.5", (0, 50), (-2, 54)),
}


def create_data(curve, observations=2048):
    """Listing 3.1: points on the curve, (observations, 2), with uniform x."""
    f, _, (low, high), _ = CURVES[curve]
    train_data = torch.zeros((observations, 2))
    train_data[:, 0] = low + (high - low) * torch.rand(observations)
    train_data[:, 1] = f(train_data[:, 0])
    return train_data


def plot_data(train_data, curve):
    """Listing 3.2: a figure of the data (n, 2), with labels and a title."""
    _, label, x_range, y_limits = CURVES[curve]
    figure = Figure(figsize=(8, 6), dpi=60)
    axes = figure.subplots()
    axes.plot(*train_data.cpu().T, ".", c="r", alpha=0.1, label="real samples")
    axes.set(xlabel="values of x", ylabel=f"values of $y={label}$")
    axes.set(xlim=x_range, ylim=y_limits, title=f"The shape of $y={label}$")
    return figure


def scale_of(train_data, standardize):
    """mean and std (2,) for Scale: (points - mean) / std has mean 0 and deviation 2."""
    if not standardize:
        return torch.zeros(2), torch.ones(2)
    return train_data.mean(0), train_data.std(0) / 2


class Scale(nn.Module):
    """Points (batch, 2) to points * std + mean."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, points):
        return points * self.std + self.mean


def Discriminator(mean, std, dropout, slope):
    """Listing 3.3: points (batch, 2) to the probability of being real (batch, 1)."""
    return nn.Sequential(
        Scale(-mean / std, 1 / std),  # to about the same range in x and y
        nn.Linear(2, 256),
        nn.LeakyReLU(slope),  # ReLU, if slope is 0
        nn.Dropout(dropout),  # none, if dropout is 0
        nn.Linear(256, 128),
        nn.LeakyReLU(slope),
        nn.Dropout(dropout),
        nn.Linear(128, 64),
        nn.LeakyReLU(slope),
        nn.Dropout(dropout),
        nn.Linear(64, 1),
        nn.Sigmoid(),
    )


def Generator(mean, std, slope):
    """Listing 3.4: noise (batch, 2) to points (batch, 2)."""
    return nn.Sequential(
        nn.Linear(2, 16),
        nn.LeakyReLU(slope),
        nn.Linear(16, 32),
        nn.LeakyReLU(slope),
        nn.Linear(32, 2),
        Scale(mean, std),  # and back
    )


def performance(fake_samples, curve):
    """Section 3.3.3: the mean squared error in y of points (batch, 2)."""
    real = CURVES[curve][0](fake_samples[:, 0])
    return nn.functional.mse_loss(fake_samples[:, 1], real)


class EarlyStop:
    """Listing 3.5: says when gdif has not fallen for `patience` calls of stop."""

    def __init__(self, patience):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif
        self.min_gdif = float("inf")

    def stop(self, gdif):
        self.steps = 0 if gdif < self.min_gdif else self.steps + 1
        self.min_gdif = min(gdif, self.min_gdif)
        return self.steps >= self.patience

    def state_dict(self):  # for checkpoint.pt
        return {"steps": self.steps, "min_gdif": self.min_gdif}

    def load_state_dict(self, state):
        vars(self).update(state)


@torch.no_grad()
def quality(fake_samples, curve, train_data):
    """performance, and what it misses: how x is spread. See the top of the file."""
    fake_samples, variance = fake_samples.cpu(), train_data[:, 1].var().item()
    x, (low, high) = fake_samples[:, 0], CURVES[curve][2]
    shares = torch.histc(x, 10, low, high) / len(x) * 10
    return {
        "error": performance(fake_samples, curve).item() / variance,
        "least": shares.min().item(),
        "most": shares.max().item(),
        "outside": ((x < low) | (x > high)).float().mean().item(),
    }


def gap(watch, error, least, most, outside):
    """What EarlyStop wants small. If it watches quality: below 1, the aim is met."""
    if watch == "error":  # the document's measure, as a share
        return error
    return max(error / 0.005, 2 * (1 - least), most - 1, outside / 0.02)


def train_D_on_real(real_samples, D, loss_fn, optimD, r1):
    """Listing 3.6: update D on real points (batch, 2). Returns the loss.

    r1: the weight of a penalty on the slope of D's logits (Mescheder et al., 2018).
    """
    optimD.zero_grad()
    points = D[0](real_samples).requires_grad_()  # scaled
    logits = D[1:-1](points)  # before the sigmoid
    out_D = D[-1](logits)  # the sigmoid: (batch, 1)
    loss_D = loss_fn(out_D, torch.ones_like(out_D))
    (slopes,) = torch.autograd.grad(logits.sum(), points, create_graph=True)
    penalty = r1 / 2 * slopes.square().sum(1).mean()
    (loss_D + penalty).backward()
    optimD.step()
    return loss_D.detach()


def train_D_on_fake(batch_size, D, G, loss_fn, optimD):
    """Listing 3.7: update D on batch_size of G's points. Returns the loss."""
    noise = torch.randn((batch_size, 2), device=G[0].weight.device)
    fake_samples = G(noise).detach()  # detach: G learns nothing here
    optimD.zero_grad()
    out_D = D(fake_samples)
    loss_D = loss_fn(out_D, torch.zeros_like(out_D))
    loss_D.backward()
    optimD.step()
    return loss_D.detach()


def train_G(batch_size, D, G, loss_fn, optimG):
    """Listing 3.8: update G, so that D takes its points for real.

    Returns the loss and the points. If D says 0.5 to all, each of the three losses is
    ln 2 = 0.69.
    """
    noise = torch.randn((batch_size, 2), device=G[0].weight.device)
    optimG.zero_grad()
    fake_samples = G(noise)
    out_G = D(fake_samples)
    loss_G = loss_fn(out_G, torch.ones_like(out_G))
    loss_G.backward(inputs=list(G.parameters()))  # no gradients for D: 6% faster
    optimG.step()
    return loss_G.detach(), fake_samples.detach()


def test_epoch(epoch, fake_samples, train_data, curve, path):
    """Listing 3.9: draw generated points (n, 2) over the data. (common.Run prints.)"""
    figure = plot_data(train_data, curve)
    axes = figure.axes[0]
    axes.plot(*fake_samples.cpu().T, "*", c="g", label="generated samples")
    axes.set_title(f"epoch {epoch}" if epoch else "generated samples")
    axes.legend(loc="upper left")
    figure.savefig(path)


def parse(argv):
    parser = common.make_parser(__file__, __doc__, 500, batch_size=128, sizes=(1, 2048))
    add, fraction = parser.add_argument, common.fraction
    add("--curve", choices=list(CURVES), default="exponential", help="what to draw")
    flag = argparse.BooleanOptionalAction
    add("--standardize", action=flag, default=True, help="scale points for the nets")
    add("--dropout", type=fraction, default=0.0, help="rate of dropout in D")
    add("--r1", type=common.number(float, 0), default=0.1, help="penalty on D's slope")
    add("--slope", type=fraction, default=0.2, help="of LeakyReLU below 0; 0: ReLU")
    add("--lr-G", type=common.rate, default=0.008, help="G's learning rate")
    add("--lr-D", type=common.rate, default=0.001, help="D's learning rate")
    add("--beta1", type=fraction, default=0.0, help="Adam's first beta")
    add("--average", type=fraction, default=0.995, help="decay of G's average")
    watch = ["quality", "error"]
    add("--watch", choices=watch, default="quality", help="what EarlyStop watches")
    patience = "epochs without improvement"
    add("--patience", type=common.positive, default=200, help=patience)
    add("--n", type=common.positive, default=128, help="points for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n points from a saved generator."""
    new_G = Generator(torch.zeros(2), torch.ones(2), args.slope)  # it loads its scale
    new_G.load_state_dict(args.loaded["state"])
    new_data = new_G(torch.randn((args.n, 2))).detach()
    path = common.new_folder(args) / "samples" / "generated.png"
    test_epoch(None, new_data, create_data(args.curve), args.curve, path)
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)
    torch.set_num_threads(1)  # the nets are small: more would only wait for each other

    train_data = create_data(args.curve).to(args.device)
    scale = scale_of(train_data, args.standardize)
    D = Discriminator(*scale, args.dropout, args.slope).to(args.device)
    G = Generator(*scale, args.slope).to(args.device)
    average_G = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    best_G = copy.deepcopy(G)
    loss_fn, adam = nn.BCELoss(), {"betas": (args.beta1, 0.999), "fused": True}
    optimD = torch.optim.Adam(D.parameters(), lr=args.lr_D, **adam)
    optimG = torch.optim.Adam(G.parameters(), lr=args.lr_G, **adam)
    stopper = EarlyStop(args.patience)
    fixed_noise = torch.randn((4096, 2)).to(args.device)  # for the stop, and to draw
    nets = {"G": G, "D": D, "average_G": average_G, "best_G": best_G}
    others = {"optimG": optimG, "optimD": optimD, "stopper": stopper}
    with common.Run(args, **nets, **others) as run:
        plot_data(train_data, args.curve).savefig(run.folder / "data.png")
        run.stop = stopper.steps >= stopper.patience  # a resumed run may have ended
        for epoch in run.epochs(every=25):
            for real_samples in run.minibatches(train_data):  # (128, 2)
                loss_D = train_D_on_real(real_samples, D, loss_fn, optimD, args.r1)
                loss_D += train_D_on_fake(len(real_samples), D, G, loss_fn, optimD)
                loss_G, fake_samples = train_G(len(real_samples), D, G, loss_fn, optimG)
                average_G.update_parameters(G)
                run.log(loss_D=loss_D, loss_G=loss_G)
            samples = average_G(fixed_noise).detach()
            seen = fake_samples if args.watch == "error" else samples
            gdif = gap(args.watch, **quality(seen, args.curve, train_data))
            run.measure(gdif=gdif)
            run.stop |= stopper.stop(gdif)
            if stopper.steps == 0 or args.watch == "error":
                best_G.load_state_dict(average_G.module.state_dict())
            if run.due:
                test_epoch(epoch, samples[:128], train_data, args.curve, run.sample)

        run.save_generator(best_G, fixed_noise)  # (TorchScript is deprecated)
        new_G = torch.export.load(run.folder / "generator.pt2").module()
        new_data = new_G(torch.randn((4096, 2)))
        return run.finish(quality(new_data, args.curve, train_data))


if __name__ == "__main__":
    main()
