"""A GAN that draws a curve, one point (x, y) at a time.

A generator G turns random numbers into points, a discriminator D tells them
from points on the curve. G's cloud of points becomes an arc, and the arc
finds the curve. It takes a minute. (It follows document 4 of README.md, 3.1
to 3.4.)

    python curve_gan.py               # y = 1.08^x
    python curve_gan.py --curve sine  # exercises 3.1 to 3.3 of the document
    python curve_gan.py --resume runs/curve_gan/1/checkpoint.pt --patience 600
    python curve_gan.py --generate runs/curve_gan/1/checkpoint.pt --n 500
    python curve_gan.py --document    # with the document's settings

Open new_data.png, then training.gif. On the way, points may leave the curve
and come back: the best G is kept, and the last frame shows it. The run ends
with error, in y (good: below 0.002), least and most, the points in the
emptiest and the fullest tenth of x (good: above 0.5, below 2), and outside,
the share beyond the range of x (good: below 0.02). What next? --document is
misled about when to stop: lesson 7 of LESSONS.md.
"""

# 文档 4：第三章：生成对抗网络：形状和数量生成

import copy

import torch
from matplotlib.figure import Figure
from torch import nn

import common
from common import fraction, positive_float, positive_int, yes_no  # options

# (y as a function of x, its label, range of x, limits of y in figures)
CURVES = {
    "exponential": (lambda x: 1.08**x, "1.08^x", (0, 50), (0, 50)),
    "sine": (torch.sin, r"\sin(x)", (-5, 5), (-1.2, 1.2)),  # 练习 3.1, 3.2, 3.3
    "cosine": (torch.cos, r"\cos(x)", (-5, 5), (-1.2, 1.2)),
    "quadratic": (torch.square, "x^2", (-5, 5), (-2, 27)),
    "inverted-u": (lambda x: 4 * x - x**2 / 12.5, "4x-x^2/12.5", (0, 50), (-2, 54)),
}


# %% 3.2.1 形成指数增长曲线的训练数据集: the data
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
    fig = Figure(figsize=(5, 4), dpi=100, layout="constrained")
    axes = fig.subplots()
    axes.plot(*train_data.cpu().T, ".", c="tab:blue", alpha=0.1)
    axes.plot([], [], ".", c="tab:blue", label="real samples")  # not faint
    if fake_samples is not None:
        stars = {
            "ms": 6 if len(fake_samples) < 200 else 3,
            "c": "tab:orange",
        }  # ms: size
        axes.plot(*fake_samples.cpu().T, "*", label="generated samples", **stars)
    axes.set(xlim=x_range, ylim=y_limits, title=title)
    axes.set(xlabel="values of x", ylabel=f"values of $y={label}$")
    fig.legend(loc="outside lower right", ncols=2)
    fig.savefig(path)


# %% 3.3 创建 GANs: units in which the nets see the points
# (Ours.) Points up to 50 are too large for D (lesson 4). So D sees them on the figure's
# axes, drawn from -3 to 3, and G draws on these axes.
class Scale(nn.Module):
    """Points (batch, 2) to units of the axes: (points - middle) / unit."""

    def __init__(self, middle, unit):
        super().__init__()
        self.register_buffer("middle", middle)
        self.register_buffer("unit", unit)

    def forward(self, points):
        return (points - self.middle) / self.unit


class Unscale(Scale):
    """The way back."""

    def forward(self, points):
        return points * self.unit + self.middle


def get_units(curve):
    """The middle of a figure's axes (2,), and a sixth of their lengths (2,)."""
    _, _, (x_low, x_high), (y_low, y_high) = CURVES[curve]
    low = torch.tensor([x_low, y_low])
    high = torch.tensor([x_high, y_high])
    return (low + high) / 2, (high - low) / 6


# %% 3.3.1 判别网络: the discriminator
def make_D(units, dropout, negative_slope):
    """Listing 3.3: points (batch, 2) to the probability of being real (batch, 1)."""
    return nn.Sequential(
        Scale(*units),
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


# %% 3.3.2 生成器网络: the generator
# (Other latent dimensions do as well, says the document. With 5: error 0.0001.)
def make_G(units, latent_dim, negative_slope):
    """Listing 3.4: noise (batch, latent_dim) to points (batch, 2)."""
    return nn.Sequential(
        nn.Linear(latent_dim, 16),
        nn.LeakyReLU(negative_slope),
        nn.Linear(16, 32),
        nn.LeakyReLU(negative_slope),
        nn.Linear(32, 2),
        Unscale(*units),
    )


# %% 3.3.3 损失函数、优化器和早停: how good is it, and when to stop?
def performance(fake_samples, curve):
    """The mean squared error in y of points (n, 2)."""
    f = CURVES[curve][0]
    real = f(fake_samples[:, 0])
    return nn.functional.mse_loss(fake_samples[:, 1], real)


class EarlyStop:
    """Listing 3.5: stop says True when gdif has not fallen for `patience` calls."""

    def __init__(self, patience=1000):
        self.patience = patience
        self.steps = 0  # calls since the smallest gdif
        self.min_gdif = float("inf")

    def stop(self, gdif):
        if gdif < self.min_gdif:
            self.min_gdif = gdif
            self.steps = 0
        else:
            self.steps += 1
        return self.steps >= self.patience

    def state_dict(self):  # for --resume, which may raise patience
        return {"steps": self.steps, "min_gdif": self.min_gdif}

    def load_state_dict(self, state):
        self.steps = state["steps"]
        self.min_gdif = state["min_gdif"]


ABOUT = {
    "error": "in y, a share of its variance; good: below 0.002",
    "least": "points in the emptiest tenth of x, 1 is fair; good: above 0.5",
    "most": "points in the fullest tenth; good: below 2",
    "outside": "share of points beyond the range of x; good: below 0.02",
}


# The trap: performance is best while all points crowd at the flat left end of the
# curve. There they have hardly any error. After that it never improves, so training
# stops 1,000 epochs later, and the last G is saved. (The text's 1,025 is probably the
# last figure before the stop.) Ours sees how x is spread, too, and keeps the best G.
@torch.no_grad()
def score(fake_samples, curve, train_data):
    """performance, and what it misses: how the x of points (n, 2) spread. See ABOUT."""
    fake_samples = fake_samples.cpu()
    x = fake_samples[:, 0]
    low, high = CURVES[curve][2]
    tenths = torch.histc(x, 10, low, high) / len(x) * 10
    is_outside = (x < low) | (x > high)
    variance = train_data[:, 1].var().item()
    return {
        "error": performance(fake_samples, curve).item() / variance,
        "least": tenths.min().item(),
        "most": tenths.max().item(),
        "outside": is_outside.float().mean().item(),
    }


def worst(error, least, most, outside):
    """Our gdif: each part of score, 1 at its limit; the largest of them."""
    return max(error / 0.002, 2 * (1 - least), most - 1, outside / 0.02)


# %% 3.4.1 GANs 的训练: the updates
# The document's functions use globals. Here they are arguments. The four steps of 3.1: make
# fakes, let D judge, compute the loss, adjust the weights.
# Balance: D says 0.5 to all. Then each of the three losses is ln 2 = 0.69.
def train_D_on_real(real_samples, real_labels, D, loss_fn, optimD):
    """Listing 3.6: update D on real points (batch, 2). Returns the loss."""
    real_samples = real_samples.to(real_labels.device)
    optimD.zero_grad()
    out_D = D(real_samples)  # (batch, 1)
    loss_D = loss_fn(out_D, real_labels)
    loss_D.backward()
    optimD.step()
    return loss_D.detach()  # else the sum of losses would keep every graph


def train_D_on_fake(fake_labels, latent_dim, D, G, loss_fn, optimD):
    """Listing 3.7: update D on a point of G for each label. Returns the loss."""
    noise = torch.randn((len(fake_labels), latent_dim), device=fake_labels.device)
    fake_samples = G(noise).detach()  # (the document has none: G would get gradients)
    optimD.zero_grad()
    out_D = D(fake_samples)
    loss_D = loss_fn(out_D, fake_labels)
    loss_D.backward()
    optimD.step()
    return loss_D.detach()


def train_G(real_labels, latent_dim, D, G, loss_fn, optimG):
    """Listing 3.8: update G to fool D. Returns the loss and the points (batch, 2)."""
    noise = torch.randn((len(real_labels), latent_dim), device=real_labels.device)
    optimG.zero_grad()
    fake_samples = G(noise)
    out_G = D(fake_samples)
    loss_G = loss_fn(out_G, real_labels)
    loss_G.backward()  # D gets gradients, too; its zero_grad clears them
    optimG.step()
    return loss_G.detach(), fake_samples.detach()


def test_epoch(epoch, fake_samples, train_data, curve, run):
    """Listing 3.9: draw G's points (n, 2) over the data. (Run prints the losses.)"""
    title = f"epoch {epoch}, step {run.step}"
    plot_data(train_data, curve, run.frame, title, fake_samples)


# %% The options
# The document's settings. Behind each: error and least with it alone. By default: at most
# 0.0006, and 0.9. (All but lr_D: of 1.08^x.)
DOCUMENT = {
    "scale": False,  # 0.001, 0: lesson 4
    "dropout": 0.3,  # up to 0.001, 0.8: a matter of taste, but it takes twice the time
    "negative_slope": 0.0,  # up to 0.003, 0.8: units die
    "weight_decay": 0.0,  # 0.002 to 0.003, 0.3 to 0.8: lesson 5
    "lr_G": 0.0005,  # 0.002, 0.4: lesson 3
    "lr_D": 0.0005,  # cosine 0.003 to 0.004: a thousand epochs are too few
    "beta1": 0.9,  # 0.003, 0.04: lesson 2
    "watch": "error",  # 0.0001, 0.8: no harm alone, with --patience 1000. Lesson 7
    "patience": 1000,
    "epochs": 10_000,
}  # all of them: 0.05 or more, 0.1 to 0.4


def parse(argv):
    parser = common.make_parser("curve_gan", __doc__, epochs=1000, batch=128, of=2048)
    add = parser.add_argument
    curves = {"choices": list(CURVES), "default": "exponential"}
    add("--curve", **curves, help="what to draw")
    add("--scale", action=yes_no, default=True, help="scale points to about -3 to 3")
    add("--dropout", type=fraction, default=0.0, help="share of D's units left out")
    add("--negative-slope", type=fraction, default=0.2, help="of LeakyReLU; 0 is ReLU")
    add("--lr-G", type=positive_float, default=0.008, help="G's learning rate")
    add("--lr-D", type=positive_float, default=0.001, help="D's learning rate")
    add("--beta1", type=fraction, default=0.0, help="how much old gradients count")
    add("--weight-decay", type=fraction, default=0.1, help="pull of D's weights to 0")
    add("--latent-dim", type=positive_int, default=2, help="random numbers for a point")
    watch = {"choices": ["score", "error"], "default": "score"}
    add("--watch", **watch, help="what stops the training")
    add("--patience", type=positive_int, default=300, help="epochs without progress")
    add("--n", type=positive_int, default=128, help="points to --generate")
    return common.parse(parser, argv, DOCUMENT, resume=["--patience"], generate=["--n"])


@torch.no_grad()
def generate(args):
    """--generate: draw args.n points of a saved generator."""
    G = make_G(get_units(args.curve), args.latent_dim, args.negative_slope).eval()
    G.load_state_dict(common.load(args.generate)["parts"]["best_G"])
    new_data = G(torch.randn((args.n, args.latent_dim)))
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    title = f"{args.n} generated points, seed {args.seed}"
    plot_data(create_data(args.curve), args.curve, path, title, new_data)
    common.show(path)


# %% 3.2.2 准备训练数据集, 3.3.3, listing 3.10: the training
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)  # (the document's, in listing 3.1)
    if args.generate:
        return generate(args)

    device = args.device
    curve = args.curve
    latent_dim = args.latent_dim
    train_data = create_data(curve).to(device)
    units = get_units(curve)
    if not args.scale:
        units = (torch.zeros(2), torch.ones(2))
    D = make_D(units, args.dropout, args.negative_slope).to(device)
    G = make_G(units, latent_dim, args.negative_slope).to(device)
    best_G = copy.deepcopy(G).eval()  # what is saved
    loss_fn = nn.BCELoss()
    adam = {"betas": (args.beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    decay = {"weight_decay": args.weight_decay}  # with 0, AdamW is Adam
    optimD = torch.optim.AdamW(D.parameters(), lr=args.lr_D, **adam, **decay)
    optimG = torch.optim.Adam(G.parameters(), lr=args.lr_G, **adam)
    stopper = EarlyStop(args.patience)
    real_labels = torch.ones((args.batch_size, 1)).to(device)
    fake_labels = torch.zeros((args.batch_size, 1)).to(device)
    # To judge, and to draw. (The document judges the last 128 points of train_G.)
    fixed_noise = torch.randn((4096, latent_dim)).to(device)

    parts = {"D": D, "G": G, "best_G": best_G, "stopper": stopper}
    with common.Run(args, **parts, optimD=optimD, optimG=optimG) as run:
        run.levels["loss_D"] = {"balance: D undecided, 2 ln 2": 1.386}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        if args.watch == "score":
            run.levels["gdif"] = {"good: below 1 (error, least, most, outside)": 1}
        plot_data(train_data, curve, run.folder / "data.png", f"${CURVES[curve][1]}$")
        print(f"The first of the data, three pairs (x, y):\n{train_data[:3]}")  # batch0
        for epoch in range(run.epoch + 1, args.epochs + 1):
            if stopper.steps >= args.patience:  # a resumed run that has stopped already
                break
            # 16 minibatches (128, 2). (Your own DataLoader(train_data, ...), as in 3.2.2,
            # gives no tuples: for real_samples in train_loader.)
            for (real_samples,) in common.minibatches(args, train_data):
                run.step += 1
                n = len(real_samples)  # another --batch-size may leave fewer at the end
                loss_D = train_D_on_real(
                    real_samples, real_labels[:n], D, loss_fn, optimD
                )
                loss_D += train_D_on_fake(
                    fake_labels[:n], latent_dim, D, G, loss_fn, optimD
                )
                loss_G, fake_samples = train_G(
                    real_labels[:n], latent_dim, D, G, loss_fn, optimG
                )
                # (The document divides by the last index: 16/15 of the mean.)
                run.log(loss_D=loss_D, loss_G=loss_G)
            samples = G(fixed_noise).detach()  # (4096, 2)
            if args.watch == "error":  # the document's
                gdif = performance(fake_samples, curve).item()
            else:
                gdif = worst(**score(samples, curve, train_data))
            stop = stopper.stop(gdif)
            # The document saves the last G, not the best.
            if stopper.steps == 0 or args.watch == "error":
                best_G.load_state_dict(G.state_dict())
            # The document prints and draws every 25 epochs.
            if epoch % 25 == 0 or epoch in common.EARLY or epoch == args.epochs or stop:
                run.log(gdif=gdif)
                test_epoch(epoch, samples[:128], train_data, curve, run)
                run.end_epoch(epoch)
            if stop:
                print(f"Stopped: no progress for {stopper.steps} epochs (--patience)")
                break
        kept = run.epoch  # the document's G
        if args.watch == "score":
            kept -= stopper.steps
        samples = best_G(fixed_noise[:128]).detach()
        plot_data(train_data, curve, run.frame, f"kept: epoch {kept}", samples)

    # 3.4.2 保存和使用训练好的生成器: save G, and use it without its code
    # TorchScript is deprecated, so torch.export. (Windows: it cannot open a path that is
    # not ASCII, but it takes an open file.)
    path = run.folder / "generator.pt2"
    net = best_G.cpu()
    rows = ({0: torch.export.Dim("n")},)  # any number of them
    example = torch.randn((2, latent_dim))
    program = torch.export.export(net, (example,), dynamic_shapes=rows)
    with path.open("wb") as file:
        torch.export.save(program, file)
    with path.open("rb") as file:
        new_G = torch.export.load(file).module()  # it is in eval mode already
    with torch.no_grad():
        new_data = new_G(torch.randn((4096, latent_dim)))
    path = run.folder / "new_data.png"
    plot_data(train_data, curve, path, "new data", new_data[:128])
    scores = score(new_data, curve, train_data)
    return run.finish(scores, ABOUT, "new_data.png", "training.png")


# %% For readers of the document: its slips, which change nothing here
# 3.4.1: optimizer.step() is called 反向传播 (back-propagation): that is backward(). By
# 增量梯度 the gradient of this minibatch alone is meant.
# 3.4.2: the title of its figure says Inverted-U; the curve is 1.08^x.

if __name__ == "__main__":
    common.use_one_thread()
    main()
