"""A GAN that learns where points lie: the smallest example, in fifteen seconds.

A generator G turns random numbers into points. A discriminator D tells them
from the data, 1,000 points of a Gaussian. G learns to fool D. G is one linear
layer. (The script follows document 1 of README.md, sections 2 to 11.)

    python linear_gan.py             # train
    python linear_gan.py --resume runs/linear_gan/1/checkpoint.pt --epochs 50
    python linear_gan.py --generate runs/linear_gan/1/checkpoint.pt --n 500
    python linear_gan.py --document  # with the document's settings

Open training.gif: losses above, points below. The background is what D says
of each place: blue is real, orange fake, white undecided. G begins as a dot.
The dot becomes a line, turns and widens until it covers the data. The run
ends with wasserstein_2, how far the mean and spread of G's points are from
the data's: 0 is perfect, below 0.3 good, 3 untrained. What next? Go on to 50
epochs, as above: the losses stand still. Lesson 1 of LESSONS.md says why.
"""

# 文档 1：简单的数据增强基于GANs实现

import time

import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import nn

import common
from common import fraction, positive_float, positive_int  # types of options


# %% 2 - Create the data
def create_data():
    """1,000 points (1000, 2), Gaussian with mean b and covariance A^T A."""
    X = torch.normal(0.0, 1.0, (1000, 2))
    A = torch.tensor([[1, 2], [-0.1, 0.5]])
    b = torch.tensor([1, 2])
    return torch.matmul(X, A) + b


BOX = (-3, 5, -6, 10)  # all figures show x from -3 to 5, y from -6 to 10


def scatter(axes, points, marker, label):
    """Draw points (n, 2), on the same scale in all figures."""
    axes.set(xlim=BOX[:2], ylim=BOX[2:], xlabel="x", ylabel="y")
    drawn = axes.scatter(*points.cpu().T, marker=marker, label=label)
    axes.legend(loc="upper left")
    return drawn


# %% 3 - Define the models
def make_Gen():
    """Noise (batch, 2) to points (batch, 2)."""
    return nn.Sequential(nn.Linear(in_features=2, out_features=2))


def make_Disc():
    """Points (batch, 2) to logits (batch, 1); above 0 means real."""
    return nn.Sequential(
        nn.Linear(2, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
        nn.Tanh(),
        nn.Linear(3, 1),
    )


# %% 4 - Define the function for discriminator updates
# The document calls the same net Disc, Discriminator, nnet_D and net_D. In balance, D's
# logits are 0: probability 0.5. Then both losses are ln 2 = 0.693 for each point.
def update_D(X, Z, nnet_D, nnet_G, loss, trainer_D):
    """Update D on real points X and fakes of noise Z. Returns the loss, summed."""
    batch_size = X.shape[0]  # X and Z are (batch, 2)
    ones = torch.ones((batch_size, 1), device=X.device)  # as real_Y
    zeros = torch.zeros((batch_size, 1), device=X.device)
    trainer_D.zero_grad()
    real_Y = nnet_D(X)  # (batch, 1)
    synth_X = nnet_G(Z)
    synth_Y = nnet_D(synth_X.detach())  # detach: G learns nothing here
    loss_D = (loss(real_Y, ones) + loss(synth_Y, zeros)) / 2  # in balance, as loss_G
    loss_D.backward()
    trainer_D.step()
    return loss_D.detach()  # the number alone: backward() is done


# %% 5 - Perform generator updates
def update_G(Z, nnet_D, nnet_G, loss, trainer_G):
    """Update G, so that D takes its points for real. Returns the loss, summed."""
    batch_size = Z.shape[0]
    ones = torch.ones((batch_size, 1), device=Z.device)
    trainer_G.zero_grad()
    synth_X = nnet_G(Z)
    synth_Y = nnet_D(synth_X)  # (batch, 1)
    loss_G = loss(synth_Y, ones)
    loss_G.backward()  # D gets gradients, too; its zero_grad clears them
    trainer_G.step()
    return loss_G.detach()


# %% 6 - Initialize the parameters: weights, loss, optimizers
# All weights begin near 0: G as a dot, and D says 0.5 to all points. (The document asks for
# enough randomness. This is little, and enough here.)
def init_params(Discriminator, Generator, lr_D, lr_G, beta1, weight_decay):
    """Draw all parameters from N(0, 0.02^2). Returns all that training needs."""
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    for w in Discriminator.parameters():
        nn.init.normal_(w, 0, 0.02)
    for w in Generator.parameters():
        nn.init.normal_(w, 0, 0.02)
    adam = {"betas": (beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    decay = {"weight_decay": weight_decay}  # with 0, AdamW is Adam
    trainer_D = torch.optim.AdamW(Discriminator.parameters(), lr=lr_D, **adam, **decay)
    trainer_G = torch.optim.Adam(Generator.parameters(), lr=lr_G, **adam)
    fig = Figure(figsize=(5, 8), dpi=80)  # (document: 5 x 9)
    fig.subplots_adjust(left=0.13, right=0.96, bottom=0.03, top=0.95, hspace=0.3)
    axes = fig.subplots(2, 1, height_ratios=[2, 3])  # losses above, points below
    loss_D = []
    loss_G = []
    return loss, trainer_D, trainer_G, fig, axes, loss_D, loss_G


# %% 7 - Compute the losses: one epoch of training
# The document adds up a list, metric, by sum and zip. Here each sum has its own line.
def compute_losses(net_D, net_G, loss, trainer_D, trainer_G, latent_dim, data_iter):
    """Train on minibatches X (8, 2). Returns D's and G's losses, summed, and points."""
    metrics = [0.0] * 3
    for (X,) in data_iter:
        batch_size = X.shape[0]
        Z = torch.normal(0.0, 1.0, size=(batch_size, latent_dim), device=X.device)
        metrics[0] += update_D(X, Z, net_D, net_G, loss, trainer_D)
        metrics[1] += update_G(Z, net_D, net_G, loss, trainer_G)  # on the same noise
        metrics[2] += batch_size
    return metrics


# %% 8 - Display generated distributions
# The document clears its axes and draws all again. To move the points is faster.
# The background is ours: it shows the other player, D.
@torch.no_grad()
def display_gen_dist(net_G, net_D, drawn, ground, latent_dim, device):
    """Show 100 points of G, and what D says to 80 x 80 places.

    The noise is always the same. (The document draws new noise each time.)
    """
    source = torch.Generator().manual_seed(0)  # of random numbers
    Z = torch.normal(0.0, 1.0, size=(100, latent_dim), generator=source)
    net_G.eval()  # for batch norm, if you add it
    drawn.set_offsets(net_G(Z.to(device)).cpu())
    net_G.train()
    x = torch.linspace(*BOX[:2], 80)
    y = torch.linspace(*BOX[2:], 80)
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (80, 80, 2)
    probability = net_D(places.to(device)).sigmoid()  # (80, 80, 1)
    ground.set_data(probability.squeeze(-1).cpu().numpy())


# %% 9 - Display the losses
# The document shows the figure live. Here main saves it, a frame of the film.
def display_losses(metrics, loss_D, loss_G, lines):
    """Keep the mean losses of an epoch, and draw those of all."""
    loss_D.append((metrics[0] / metrics[2]).item())
    loss_G.append((metrics[1] / metrics[2]).item())
    epochs = range(1, len(loss_D) + 1)
    lines[0].set_data(epochs, loss_D)
    lines[1].set_data(epochs, loss_G)


def prepare_axes(fig, axes, data, num_epochs):
    """Draw what stays. Returns the lines of the losses, the points of G, the ground."""
    (line_D,) = axes[0].plot([], [], ".-", c="blue", label="Discriminator loss")
    (line_G,) = axes[0].plot([], [], ".-", c="green", label="Generator loss")
    axes[0].axhline(0.693, c="grey", ls=":", label="balance: D undecided, ln 2")
    axes[0].set(xlim=(0, num_epochs), ylim=(0.3, 1.8), xlabel="epoch", ylabel="loss")
    axes[0].legend()
    colours = LinearSegmentedColormap.from_list("", ["tab:orange", "white", "tab:blue"])
    look = {"cmap": colours, "vmin": 0, "vmax": 1, "alpha": 0.6}
    place = {"extent": BOX, "origin": "lower", "aspect": "auto"}
    ground = axes[1].imshow(torch.full((80, 80), 0.5).numpy(), **look, **place)
    says = "what D says of each place: 0 is fake, 1 is real"
    fig.colorbar(ground, ax=axes[1], location="bottom", ticks=[0, 0.5, 1], label=says)
    scatter(axes[1], data[:100], "o", "real")
    drawn = scatter(axes[1], torch.zeros(100, 2), "x", "generated")
    return [line_D, line_G], drawn, ground


# %% How good is it?
ABOUT = {"wasserstein_2": "distance of G's points from the data; good: below 0.3"}


def distance(points, data):
    """The 2-Wasserstein distance of the Gaussians that fit points and data (n, 2)."""
    A = points.T.cov()
    B = data.T.cov()
    eigenvalues = torch.linalg.eigvals(A @ B).real
    roots = eigenvalues.clamp(min=0).sqrt()
    spread = (A + B).trace() - 2 * roots.sum()
    square = (points.mean(0) - data.mean(0)).square().sum() + spread
    return square.clamp(min=0).sqrt().item()


@torch.no_grad()
def score(net_G, data):
    """Compare 10,000 points of G, always of the same noise, with the data."""
    source = torch.Generator().manual_seed(0)  # of random numbers
    Z = torch.normal(0.0, 1.0, (10_000, 2), generator=source).to(data.device)
    net_G.eval()
    synth_X = net_G(Z)
    net_G.train()
    if not synth_X.isfinite().all():
        raise SystemExit("error: G's output is not finite: try a lower learning rate")
    return {"wasserstein_2": distance(synth_X.cpu().double(), data.cpu().double())}


# %% The options
# The document's settings. Behind each: wasserstein_2 with it alone (median of thirty runs,
# and what nine of ten are below). By default: 0.12, 0.2.
DOCUMENT = {
    "beta1": 0.9,  # 0.18, 0.4: lesson 2
    "weight_decay": 0.0,  # 0.18, 0.3: lesson 1
}  # with both: 0.25, 0.5


def parse(argv):
    parser = common.make_parser("linear_gan", __doc__, epochs=30, batch=8, of=1000)
    add = parser.add_argument
    add("--lr-D", type=positive_float, default=0.05, help="D's learning rate")
    add("--lr-G", type=positive_float, default=0.005, help="G's learning rate")
    add("--beta1", type=fraction, default=0.5, help="how much old gradients count")
    add("--weight-decay", type=fraction, default=0.005, help="pull of D's weights to 0")
    add("--n", type=positive_int, default=100, help="points to --generate")
    return common.parse(parser, argv, DOCUMENT, generate=["--n"])


@torch.no_grad()
def generate(args):
    """--generate: draw args.n points with a saved generator."""
    net_G = make_Gen().eval()
    net_G.load_state_dict(common.load(args.generate)["parts"]["G"])
    synth_X = net_G(torch.normal(0.0, 1.0, (args.n, 2)))
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    axes = Figure().subplots()
    scatter(axes, create_data()[:100], "o", "real: 100 points")
    scatter(axes, synth_X, "x", f"generated: {args.n} points, seed {args.seed}")
    axes.figure.savefig(path)
    common.show(path)


# %% 10 - Create the training function, 11 - Train the model
# About the learning rates of section 11: see lesson 3.
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    tik = time.perf_counter()
    device = args.device
    latent_dim = 2
    data = create_data().to(device)
    Gen = make_Gen().to(device)
    Disc = make_Disc().to(device)
    loss, trainer_D, trainer_G, fig, axes, loss_D, loss_G = init_params(
        Disc, Gen, args.lr_D, args.lr_G, args.beta1, args.weight_decay
    )
    parts = {"G": Gen, "D": Disc, "trainer_G": trainer_G, "trainer_D": trainer_D}
    with common.Run(args, **parts) as run:
        run.levels["loss_D"] = {"balance: D undecided, ln 2 (half the sum)": 0.693}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        run.levels["wasserstein_2"] = {"good: below 0.3": 0.3}
        loss_D.extend(run.history.get("loss_D", {}).values())  # after --resume
        loss_G.extend(run.history.get("loss_G", {}).values())
        lines, drawn, ground = prepare_axes(fig, axes, data, args.epochs)
        if run.step == 0:
            display_gen_dist(Gen, Disc, drawn, ground, latent_dim, device)
            axes[1].set_title("before training")
            fig.savefig(run.frame)
        examples = 0
        for epoch in range(run.epoch + 1, args.epochs + 1):
            # 125 minibatches. (Your own DataLoader works, too: data_iter = list(...).)
            data_iter = list(common.minibatches(args, data))
            run.step += len(data_iter)
            metrics = compute_losses(
                Disc, Gen, loss, trainer_D, trainer_G, latent_dim, data_iter
            )
            examples += metrics[2]
            display_losses(metrics, loss_D, loss_G, lines)
            # The document draws each epoch. That takes nearly as long as to train.
            if epoch == 1 or epoch % 2 == 0 or epoch == args.epochs:
                display_gen_dist(Gen, Disc, drawn, ground, latent_dim, device)
                axes[1].set_title(f"epoch {epoch}, step {run.step}")
                fig.savefig(run.frame)
            run.log(loss_D=loss_D[-1], loss_G=loss_G[-1], **score(Gen, data))
            run.end_epoch(epoch)
        scores = score(Gen, data)

    speed = examples / (time.perf_counter() - tik)
    print(f"loss_D {loss_D[-1]:.4f}, loss_G {loss_G[-1]:.4f}, {speed:.0f} examples/sec")
    return run.finish(scores, ABOUT, "training.png")


# %% For readers of the document: its slips, which change nothing here
# Section 7: the sums are of one epoch, not of the whole training. Its arguments X and
# batch_size are overwritten at once. Section 9 returns both lists, which have grown in
# place already. Section 11: 识别出不 should be 识别不出. And it takes losses that meet for
# success (lesson 1 shows that they are no sign of it).

if __name__ == "__main__":
    common.use_one_thread()
    main()
