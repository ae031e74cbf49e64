"""A GAN that learns a 2-D Gaussian: the smallest example, in four seconds.

Mirrors document 1, sections 2 to 11. G is one linear layer.

    python linear_gan.py                      # train
    python linear_gan.py --resume runs/linear_gan/1/checkpoint.pt --epochs 50
    python linear_gan.py --generate runs/linear_gan/1/checkpoint.pt --n 500
    python linear_gan.py --document           # the document's own recipe

Open training.gif: losses above, points below. G's points begin as one dot, then stretch
and turn until they lie on the data (data.png). The run ends with wasserstein_2, how far
G's Gaussian is from the data's: 0 is perfect, 0.15 usual, 3 untrained. What next? Go on
to 50 epochs, as above: 0.07 becomes 0.20, and the losses, both 0.693, do not show it.
"""

# 文档 1：简单的数据增强基于GANs实现

import torch
from torch import nn

import common

# What --document brings back. wasserstein_2 with it alone: median, worst (seeds 0-19).
DOCUMENT = {
    "beta1": 0.9,  # 0.17, 0.62: the other net has changed; old gradients mislead
    "weight_decay": 0.0,  # 0.17, 0.32: D's logits grow too large
}  # both: 0.20, 0.58; neither, the default: 0.09, 0.29
ABOUT = {"wasserstein_2": "from G's Gaussian to the data's; 0 is perfect, 0.15 usual"}


# %% 2 - Create the data
def create_data():
    """1,000 points (1000, 2), Gaussian with mean b and covariance A^T A."""
    X = torch.normal(0.0, 1.0, (1000, 2))
    A = torch.tensor([[1, 2], [-0.1, 0.5]])
    b = torch.tensor([1, 2])
    return torch.matmul(X, A) + b


def scatter(axes, title, **points):
    """Draw points (n, 2) under their names, on the same scale in all figures."""
    axes.cla()
    for marker, (name, xy) in zip("ox", points.items()):
        axes.scatter(*xy.cpu().T, marker=marker, alpha=0.6, label=name)
    axes.set(xlim=(-3, 5), ylim=(-6, 10), title=title)
    axes.legend(loc="upper left")


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
# In balance, D's logits are 0: probability 0.5. Both losses are ln 2 = 0.693 a point.
def update_D(X, Z, nnet_D, nnet_G, loss, trainer_D):
    """Update D on real points X and fakes of noise Z. Returns the loss, summed."""
    batch_size = X.shape[0]  # X and Z are (batch, 2)
    ones = torch.ones((batch_size, 1), device=X.device)  # real_Y's shape: no reshape
    zeros = torch.zeros((batch_size, 1), device=X.device)
    trainer_D.zero_grad()
    real_Y = nnet_D(X)  # (batch, 1)
    synth_X = nnet_G(Z)
    synth_Y = nnet_D(synth_X.detach())  # detach: G learns nothing here
    loss_D = (loss(real_Y, ones) + loss(synth_Y, zeros)) / 2
    loss_D.backward()
    trainer_D.step()
    return loss_D.detach()  # the value alone: a sum of losses needs no graph


# %% 5 - Perform generator updates
def update_G(Z, nnet_D, nnet_G, loss, trainer_G):
    """Update G, so that D takes its points for real. Returns the loss, summed."""
    batch_size = Z.shape[0]
    ones = torch.ones((batch_size, 1), device=Z.device)
    trainer_G.zero_grad()
    synth_X = nnet_G(Z)
    synth_Y = nnet_D(synth_X)  # (batch, 1)
    loss_G = loss(synth_Y, ones)
    loss_G.backward(inputs=list(nnet_G.parameters()))  # no gradients for D: less work
    trainer_G.step()
    return loss_G.detach()


# %% 6 - Initialize the parameters
def init_params(Discriminator, Generator, lr_D, lr_G, beta1, weight_decay):
    """Draw all parameters from N(0, 0.02^2). Returns loss, optimizers, figure, axes."""
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    for w in [*Discriminator.parameters(), *Generator.parameters()]:
        nn.init.normal_(w, 0, 0.02)
    adam = {"betas": (beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    decay = adam | {"weight_decay": weight_decay}  # 0 makes AdamW the document's Adam
    trainer_D = torch.optim.AdamW(Discriminator.parameters(), lr=lr_D, **decay)
    trainer_G = torch.optim.Adam(Generator.parameters(), lr=lr_G, **adam)
    fig = common.Figure(figsize=(5, 7.5), dpi=80)
    fig.subplots_adjust(left=0.12, right=0.96, bottom=0.05, top=0.95, hspace=0.25)
    return loss, trainer_D, trainer_G, fig, fig.subplots(2, 1)  # axes: losses, points


# %% 7 - Compute the losses
# The sums are of one epoch, not, as the document says, of the whole training. Its X
# and batch_size (globals that train hands over) were overwritten at once: gone here.
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
@torch.no_grad()
def display_gen_dist(net_G, axes, latent_dim, data, title, n=100, seed=0):
    """Draw 100 points of data, n of G. Noise: always the same (the document: new)."""
    same = torch.Generator().manual_seed(seed)
    Z = torch.normal(0.0, 1.0, size=(n, latent_dim), generator=same).to(data.device)
    scatter(axes, title, real=data[:100], generated=net_G(Z))


# %% 9 - Display the losses: main divides the sums; Run.history keeps the means
def display_losses(history, axes):
    """Draw the mean losses. The document: G's falls, D's rises, they meet (at ln 2)."""
    axes.cla()  # the document has none, and draws all old curves again
    axes.plot(history["loss_D"].values(), c="blue")
    axes.plot(history["loss_G"].values(), c="green")
    axes.axhline(0.693, c="grey", ls=":")
    axes.set_title("mean losses of the epochs")
    axes.legend(["Discriminator loss", "Generator loss", "ln 2: balance"])


# %% The score, the options
@torch.no_grad()
def score(net_G, data):
    """Compare the data with G's Gaussian: its mean is b, its covariance W W^T."""
    W, b = net_G[0].weight.cpu(), net_G[0].bias.cpu()
    return {"wasserstein_2": common.frechet_distance(data, b, W @ W.T) ** 0.5}


def parse(argv):
    parser = common.make_parser("linear_gan", __doc__, 30, 8, sizes=(1, 1000))
    add = parser.add_argument
    add("--lr-D", type=common.rate, default=0.05, help="D's learning rate")
    add("--lr-G", type=common.rate, default=0.005, help="G's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--weight-decay", type=common.fraction, default=0.005, help="of D's weights")
    add("--n", type=common.positive, default=100, help="points for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n points with a saved generator."""
    net_G, fig, how = make_Gen(), common.Figure(), {"n": args.n, "seed": args.seed}
    net_G.load_state_dict(args.checkpoint["parts"]["G"])
    path = common.new_folder(args) / "samples" / "generated.png"
    display_gen_dist(net_G, fig.subplots(), 2, create_data(), "generated", **how)
    fig.savefig(path)
    print(path)


# %% 10 - Create the training function, 11 - Train the model: main. Run has the clock
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    latent_dim, data = 2, create_data().to(args.device)
    Gen, Disc = make_Gen().to(args.device), make_Disc().to(args.device)
    rates = args.lr_D, args.lr_G, args.beta1, args.weight_decay
    loss, trainer_D, trainer_G, fig, axes = init_params(Disc, Gen, *rates)
    parts = {"G": Gen, "D": Disc, "trainer_G": trainer_G, "trainer_D": trainer_D}
    with common.Run(args, **parts) as run:
        first = common.Figure()
        scatter(first.subplots(), "100 points of the data", real=data[:100])
        first.savefig(run.folder / "data.png")
        for epoch in run.epochs(every=10):
            data_iter = run.minibatches(data)  # like DataLoader with shuffle=True
            sum_D, sum_G, n = compute_losses(
                Disc, Gen, loss, trainer_D, trainer_G, latent_dim, data_iter
            )
            run.log(loss_D=sum_D / n, loss_G=sum_G / n, **score(Gen, data))
            run.report()
            if run.due:  # a picture takes as long as an epoch
                display_gen_dist(Gen, axes[1], latent_dim, data, f"epoch {epoch}")
                display_losses(run.history, axes[0])
                fig.savefig(run.sample)
        run.export(Gen, data)
        lines = dict.fromkeys(("loss_D", "loss_G"), (0.693, "ln 2: balance"))
        return run.finish(score(Gen, data), ABOUT, lines)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the nets are tiny: more would wait for each other
    main()
