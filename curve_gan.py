"""A GAN that learns to draw a curve, one point (x, y) at a time.

Mirrors document 4, 第三章：生成对抗网络：形状和数量生成: sections 3.1 to 3.4 and exercises
3.1 to 3.3, in their order, with the document's names.

    python curve_gan.py                       # y = 1.08^x, as in the document
    python curve_gan.py --curve sine          # exercises 3.1 to 3.3
    python curve_gan.py --resume runs/curve_gan/1/checkpoint.pt
    python curve_gan.py --generate runs/curve_gan/1/generator.pt2 --n 500

Writes a figure at epoch 1 and every 25 epochs, their film, the losses, metrics, a
checkpoint, and the generator, the best one and not the last, to runs/curve_gan/<n>/, a new
folder each time. It ends with four numbers about 4,096 generated points: their mean
squared error in y as a share of its variance in the data, what the emptiest and the
fullest tenth of the range of x hold, 1 being a fair share, and how many points are outside
that range.

The aim: an error below 0.5%, half to twice a fair share in every tenth, and fewer than 2%
outside, for every curve on each of seeds 0 to 9. All of these 50 runs end there: at worst
with 0.47%, 0.75 to 1.27 times a fair share, and 1.1% outside. On the points that EarlyStop
watches, 49 of them first get there after 55 to 346 epochs. Of 22 runs on other seeds 21
end there, too, and one on cosine with 0.58%. --document, on seeds 0 to 2 of y = 1.08^x,
stops after some 1,030 epochs with errors of 6%, 11% and 169%.

The document's rule for stopping watches the error in y alone, on 128 points: a generator
that has collapsed near x = 0 has almost none, and what is saved is the last generator.
Here EarlyStop watches the worst of the four numbers, on 4,096 points of always the same
noise, and the best generator is kept.

Departures from the document, which --document undoes. What a run without each of them
ends with, seed 0: the error, and the share in the emptiest tenth:

    without                                      exponential  cosine
    nothing: the defaults                        0.3%  0.90   0.2%  0.87
    points scaled for the nets                   3.7%  0.00   0.2%  0.93   --no-standardize
    noise before D, 0.4 at first, not dropout    1.0%  0.40   0.2%  0.88   --blur 0 --dropout 0.3
    G's initial weights doubled                  0.0%  0.88   0.1%  0.87   --init-scale 1
    rates 0.008 for G, 0.001 for D, not 0.0005   0.1%  0.87   0.8%  0.37   --lr-G 0.0005 --lr-D 0.0005
    halving rates and noise every 200 epochs     0.3%  0.91   1.5%  0.81   --half-life 0
    beta1 0.5, not 0.9                           0.1%  0.88   4.4%  0.82   --beta1 0.9
    points from a moving average of G's weights  0.3%  0.62   0.3%  0.90   --average 0

And EarlyStop as above, with patience 300, not 1,000, and at most 700 epochs, not 10,000.
Some of these only other seeds need: without doubled weights, cosine ends at 0.8% and 1.1%
on seeds 8 and 9, and sine at 0.6% and 0.8% on seeds 6 and 7; without the average, quadratic
ends at 0.6% on seed 9.

From doubled weights, G's points lie spread out at first, not in a clump that has to find
both ends of the curve. Noise blurs the two thin lines that real and generated points lie
on, so that D cannot tell all of them apart at once; it falls to 0.1. At a high rate nearly
all units of D's last hidden layer can die when there is little left to tell apart (2 of 64
were left in one run): D then says 0.5 to every point, and G drifts. At a high rate G draws
in sooner the few points that lie across a bend. As the rates fall, both come to rest.

Also, with little or no effect on what is learned: the printed losses are means over all
16 minibatches (the document divides by 15); the data are one tensor, shuffled without a
DataLoader; labels have the size of the minibatch, so that any size will do; an update
computes no gradients for the net that it leaves alone; Adam is fused; one thread, as the
nets are small; test_epoch draws 128 points of always the same noise, and main prints the
losses; the generator is saved by torch.export, as TorchScript is deprecated.
"""

import argparse
import copy
import math
import time

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

import common

# The defaults under --document, in the order of the departures above.
DOCUMENT = {
    "standardize": False,
    "blur": 0.0,
    "dropout": 0.3,
    "init_scale": 1.0,
    "lr_G": 0.0005,
    "lr_D": 0.0005,
    "half_life": 0,
    "beta1": 0.9,
    "average": 0.0,
    "watch": "error",
    "patience": 1000,
    "epochs": 10_000,
}


# --- The training data (section 3.2, exercises 3.1 and 3.2) ---------------------------

# name: (y as a function of x, what the figure calls it, range of x, limits of y there)
CURVES = {
    "exponential": (lambda x: 1.08**x, "1.08^x", (0, 50), (0, 50)),
    "sine": (torch.sin, "sin(x)", (-5, 5), (-1.2, 1.2)),
    "cosine": (torch.cos, "cos(x)", (-5, 5), (-1.2, 1.2)),
    "quadratic": (lambda x: x**2, "x^2", (-5, 5), (-2, 27)),
    "inverted-u": (
        lambda x: 50 - (x - 25) ** 2 / 12.5,
        "50-(x-25)^2/12.5",
        (0, 50),
        (-2, 54),
    ),
}


def create_data(curve, observations=2048):
    """Points on the curve, (observations, 2), with x uniform over the curve's range."""
    f, _, (low, high), _ = CURVES[curve]
    train_data = torch.zeros((observations, 2))
    train_data[:, 0] = low + (high - low) * torch.rand(observations)
    train_data[:, 1] = f(train_data[:, 0])
    return train_data


# --- The networks (sections 3.3.1 and 3.3.2) ------------------------------------------


class Scale(nn.Module):
    """Points (batch, 2) to points * std + mean, coordinate by coordinate."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, points):
        return points * self.std + self.mean


class Blur(nn.Module):
    """In training, blur the points (batch, 2): add N(0, std^2) to each coordinate.

    "Instance noise", Sønderby et al., 2017, and Arjovsky and Bottou, 2017: the points lie
    on two thin lines, which D can tell apart perfectly, and then G has no gradient to
    follow; blurred, they overlap.
    """

    def __init__(self, std):
        super().__init__()
        self.std = std

    def forward(self, points):
        if self.training and self.std:
            points = points + self.std * torch.randn_like(points)
        return points


def Discriminator(mean, std, blur=0.4, dropout=0.0):
    """Points (batch, 2) to the probability that they are real, (batch, 1)."""
    return nn.Sequential(
        Scale(-mean / std, 1 / std),  # to about the same range in x and y
        Blur(blur),
        nn.Linear(2, 256),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(64, 1),
        nn.Sigmoid(),
    )


def Generator(mean, std, init_scale=2.0):
    """Noise (batch, 2) to points (batch, 2). init_scale is a factor on the weights."""
    G = nn.Sequential(
        nn.Linear(2, 16),
        nn.ReLU(),
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 2),
        Scale(mean, std),  # and back
    )
    with torch.no_grad():
        for parameter in G.parameters():
            parameter *= init_scale
    return G


# --- How good is it, and when to stop (section 3.3.3) ---------------------------------


def performance(fake_samples, curve):
    """The document's measure: the mean squared error in y of points (batch, 2)."""
    real = CURVES[curve][0](fake_samples[:, 0])
    return nn.functional.mse_loss(fake_samples[:, 1], real)


@torch.no_grad()
def quality(fake_samples, curve, variance):
    """What performance sees, as a share, and what it cannot see.

    fake_samples: (n, 2), n in the thousands.

    Returns {"error": the mean squared error as a share of the variance of y in the data,
    "least" and "most": the points in the emptiest and in the fullest tenth of the range of
    x, 1 being a fair share, "outside": the share of the points beyond that range}.
    """
    fake_samples = fake_samples.cpu()
    low, high = CURVES[curve][2]
    shares = torch.histc(fake_samples[:, 0], 10, low, high) / len(fake_samples) * 10
    inside = (fake_samples[:, 0] >= low) & (fake_samples[:, 0] <= high)
    return {
        "error": performance(fake_samples, curve).item() / variance,
        "least": shares.min().item(),
        "most": shares.max().item(),
        "outside": 1 - inside.double().mean().item(),
    }


def gap(error, least, most, outside):
    """One number for EarlyStop from what quality returns: the worst of its four.

    Below 1 if the error is below 0.5%, each tenth of the range of x has between half and
    twice its fair share, and fewer than 2% of the points are outside.
    """
    return max(error / 0.005, 2 * (1 - least), most - 1, outside / 0.02)


class EarlyStop:
    """Says when gdif has not become smaller for `patience` calls of stop in a row."""

    def __init__(self, patience=1000):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif: 0 if the last one was it
        self.min_gdif = float("inf")

    def stop(self, gdif):
        if gdif < self.min_gdif:
            self.min_gdif = gdif
            self.steps = 0
        else:
            self.steps += 1
        return self.steps >= self.patience


# --- One step of each (section 3.4.1) -------------------------------------------------


def train_D_on_real(real_samples, D, loss_fn, optimD):
    """Update D on real points (batch, 2). Returns the loss as a tensor."""
    optimD.zero_grad()
    out_D = D(real_samples)  # (batch, 1)
    loss_D = loss_fn(out_D, torch.ones_like(out_D))
    loss_D.backward()
    optimD.step()
    return loss_D.detach()


def train_D_on_fake(batch_size, D, G, loss_fn, optimD):
    """Update D on batch_size of G's points. Returns the loss as a tensor."""
    noise = torch.randn((batch_size, 2), device=G[0].weight.device)
    with torch.no_grad():  # G learns nothing here
        fake_samples = G(noise)
    optimD.zero_grad()
    out_D = D(fake_samples)  # (batch, 1)
    loss_D = loss_fn(out_D, torch.zeros_like(out_D))
    loss_D.backward()
    optimD.step()
    return loss_D.detach()


def train_G(batch_size, D, G, loss_fn, optimG):
    """Update G, so that D takes its points for real. Returns the loss and the points."""
    noise = torch.randn((batch_size, 2), device=G[0].weight.device)
    optimG.zero_grad()
    fake_samples = G(noise)
    out_G = D(fake_samples)  # (batch, 1)
    loss_G = loss_fn(out_G, torch.ones_like(out_G))
    loss_G.backward(inputs=list(G.parameters()))  # no gradients for D's weights
    optimG.step()
    return loss_G.detach(), fake_samples.detach()


# --- Pictures (section 3.4.1) ---------------------------------------------------------


def create_figure(train_data, curve):
    """The data, red, and what is to move: generated points, green, and the title."""
    _, label, x_range, y_limits = CURVES[curve]
    fig, (axes,) = common.new_figure(1, (8, 6))
    real = train_data.cpu()
    (points,) = axes.plot([], [], "*", c="g", label="generated samples")
    axes.plot(*real.T, ".", c="r", alpha=0.1, label="real samples")
    axes.set(xlabel="values of x", ylabel=f"values of $y={label}$")
    axes.set(xlim=x_range, ylim=y_limits)
    axes.legend(loc="upper left")
    return fig, points, axes.title


def test_epoch(title, fake_samples, figure, path):
    """Draw generated points (n, 2) over the data."""
    fig, points, fig_title = figure
    points.set_data(*fake_samples.detach().cpu().T)
    fig_title.set_text(title)
    common.save_figure(fig, [points, fig_title], path)


# --- Main (sections 3.4.1 and 3.4.2) --------------------------------------------------


def parse(argv):
    parser = common.make_parser("curve_gan", __doc__, epochs=700, batch_size=128)
    add = parser.add_argument
    add("--curve", choices=list(CURVES), default="exponential", help="what to draw")
    flag = argparse.BooleanOptionalAction
    add("--standardize", action=flag, default=True, help="scale points for the nets")
    blur = "deviation of the noise before D at first"
    add("--blur", type=common.fraction, default=0.4, help=blur)
    add("--dropout", type=common.fraction, default=0.0, help="rate of dropout in D")
    scale = "factor on G's initial weights"
    add("--init-scale", type=common.positive_float, default=2.0, help=scale)
    rate = "learning rate at first"
    add("--lr-G", type=common.positive_float, default=0.008, help=f"G's {rate}")
    add("--lr-D", type=common.positive_float, default=0.001, help=f"D's {rate}")
    half = "epochs in which both rates and the blur halve; 0: never"
    add("--half-life", type=common.natural, default=200, help=half)
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    decay = "decay of G's moving average, every step; 0: none"
    add("--average", type=common.fraction, default=0.995, help=decay)
    what = "what EarlyStop watches"
    add("--watch", choices=["quality", "error"], default="quality", help=what)
    patience = "epochs without improvement before the end"
    add("--patience", type=common.positive_int, default=300, help=patience)
    add("--n", type=common.positive_int, default=128, help="points for --generate")
    return common.parse_arguments(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n points from a saved generator into a new run folder."""
    new_G, *_ = common.load_generator(args.generate, "curve_gan")
    run = common.run_folder("curve_gan", args)
    path = run / "samples" / "generated.png"
    with common.one_line_errors(run):
        new_data = new_G(torch.randn((args.n, 2)))
        figure = create_figure(create_data(args.curve), args.curve)
        test_epoch("generated", new_data, figure, path)
    print(f"{args.n} points in {path}")


def main(argv=None):
    args, checkpoint = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)
    torch.set_num_threads(1)  # more would only wait for each other

    device, batch_size = args.device, args.batch_size
    train_data = create_data(args.curve)
    variance = train_data[:, 1].var().item()
    mean, std = torch.zeros(2), torch.ones(2)
    if args.standardize:
        # The nets see points with deviation 2: next to the blur, 0.4 at first and 0.1 in
        # the end, that is wide enough to tell one part of the curve from the next.
        mean, std = train_data.mean(0), train_data.std(0) / 2
    D = Discriminator(mean, std, args.blur, args.dropout).to(device)
    G = Generator(mean, std, args.init_scale).to(device)
    blur = D[1]
    average_G = AveragedModel(G, multi_avg_fn=get_ema_multi_avg_fn(args.average))
    best_G = copy.deepcopy(G)
    loss_fn = nn.BCELoss()
    adam = {"betas": (args.beta1, 0.999), "fused": True}
    optimD = torch.optim.Adam(D.parameters(), lr=args.lr_D, **adam)
    optimG = torch.optim.Adam(G.parameters(), lr=args.lr_G, **adam)
    stopper = EarlyStop(args.patience)

    train_data = train_data.to(device)
    fixed_noise = torch.randn((4096, 2)).to(device)  # to judge and draw always the same
    steps = common.count_steps(train_data, batch_size)  # in an epoch: 16
    history = {"loss_D": [], "loss_G": []}
    done, seconds = 0, 0.0  # epochs so far, and the time that they took
    parts = {"G": G, "D": D, "average_G": average_G, "best_G": best_G}
    parts |= {"optimG": optimG, "optimD": optimD}
    if checkpoint:
        common.restore(checkpoint, parts, device)
        history, done = checkpoint["history"], checkpoint["epoch"]
        seconds = checkpoint["seconds"]
        stopper.steps, stopper.min_gdif = checkpoint["stopper"]

    last_epoch = args.epochs
    if stopper.steps >= stopper.patience:  # resumed, but it had come to its end
        last_epoch = done
    left = args.max_steps or math.inf  # steps that may still be taken
    examples = done * len(train_data)
    epoch = done
    run = common.run_folder("curve_gan", args)
    writer = SummaryWriter(run, purge_step=done + 1)
    figure = create_figure(train_data, args.curve)
    start = time.perf_counter() - seconds

    with common.one_line_errors(run), writer:
        for epoch in range(done + 1, last_epoch + 1):
            fade = 0.5 ** (epoch / args.half_life) if args.half_life else 1.0
            blur.std = args.blur * max(fade, 1 / 4)
            optimG.param_groups[0]["lr"] = args.lr_G * fade
            optimD.param_groups[0]["lr"] = args.lr_D * fade
            gloss, dloss = 0, 0
            now = min(steps, left)
            batches = common.minibatches(train_data, batch_size)
            for _, real_samples in zip(range(now), batches):
                n = len(real_samples)  # 128
                dloss += train_D_on_real(real_samples, D, loss_fn, optimD)
                dloss += train_D_on_fake(n, D, G, loss_fn, optimD)
                loss_G, fake_samples = train_G(n, D, G, loss_fn, optimG)
                gloss += loss_G
                average_G.update_parameters(G)
                examples += n
            left -= now
            gloss, dloss = gloss.item() / now, dloss.item() / now
            common.check_finite(loss_D=dloss, loss_G=gloss)
            history["loss_D"].append(dloss)
            history["loss_G"].append(gloss)
            writer.add_scalar("Loss/D", dloss, epoch)
            writer.add_scalar("Loss/G", gloss, epoch)

            with torch.no_grad():
                samples = average_G(fixed_noise)  # (4096, 2)
            if args.watch == "error":
                gdif = performance(fake_samples, args.curve).item()
            else:
                gdif = gap(**quality(samples, args.curve, variance))
            writer.add_scalar("gdif", gdif, epoch)
            stop = stopper.stop(gdif)
            if stopper.steps == 0 or args.watch == "error":
                best_G.load_state_dict(average_G.module.state_dict())
            end = stop or epoch == last_epoch or left == 0
            if epoch == 1 or epoch % 25 == 0 or end:
                losses = f"G loss: {gloss:.4f}, D loss: {dloss:.4f}"
                print(f"at epoch {epoch}, {losses}, gdif: {gdif:.3g}")
                name = f"epoch_{epoch:05d}"
                if now < steps:  # --max-steps: so many steps after the epoch before
                    name = f"epoch_{epoch - 1:05d}_step_{now:04d}"
                path = run / "samples" / f"{name}.png"
                test_epoch(f"epoch {epoch}", samples[:batch_size], figure, path)
                seconds = time.perf_counter() - start
                if now == steps:
                    numbers = {"epoch": epoch, "history": history, "seconds": seconds}
                    numbers["stopper"] = [stopper.steps, stopper.min_gdif]
                    common.save_checkpoint(run, "curve_gan", args, parts, **numbers)
            if end:
                break

        common.save_generator(best_G, (fixed_noise,), run, "curve_gan", args)
        new_G, *_ = common.load_generator(run / "generator.pt2", "curve_gan")
        new_data = new_G(torch.randn((4096, 2)))  # other noise than training saw
        path = run / "samples" / "generated.png"
        test_epoch("the saved generator", new_data[:batch_size], figure, path)
        result = quality(new_data, args.curve, variance)
        saved = epoch if args.watch == "error" else epoch - stopper.steps
        result["saved_epoch"] = saved
        print(f"The generator of epoch {saved} is saved. Of 4,096 new points from it:")
        print(f"mean squared error in y: {100 * result['error']:.2f}% of its variance")
        shares = f"{result['least']:.2f} to {result['most']:.2f} times a fair share"
        print(f"each tenth of the range of x has {shares}")
        print(f"{100 * result['outside']:.2f}% are outside that range")
        return common.finish(run, args, history, result, seconds, examples)


if __name__ == "__main__":
    main()
