"""A GAN that learns a 2-D Gaussian: the smallest example, in seconds.

Mirrors document 1, 简单的数据增强基于GANs实现, sections 2 to 11.

    python linear_gan.py                      # train
    python linear_gan.py --document           # the document's own recipe
    python linear_gan.py --resume runs/linear_gan/1/checkpoint.pt --epochs 50
    python linear_gan.py --generate runs/linear_gan/1/generator.pt2 --n 500

It ends with wasserstein_2, the distance of the generated Gaussian from that of the
data. 0 is perfect.
"""

import common  # first, so that Ctrl-C works while PyTorch loads

# isort: split
import torch
from matplotlib.figure import Figure
from torch import nn

# What --document brings back, and what a run ends with if only that is brought back:
# median and worst wasserstein_2 of seeds 0 to 19. By default 0.14, 0.31.
DOCUMENT = {
    "beta1": 0.9,  # 0.17, 0.39: the other net has changed; old gradients mislead
    "weight_decay": 0.0,  # 0.17, 0.35: D's logits grow too large
}  # both: 0.27, 0.60


def create_data():
    """Section 2: 1,000 points (1000, 2), Gaussian with mean b and covariance A^T A."""
    X = torch.normal(0.0, 1, (1000, 2))
    A = torch.tensor([[1, 2], [-0.1, 0.5]])
    b = torch.tensor([1, 2])
    return torch.matmul(X, A) + b


def Generator():
    """Section 3: noise (batch, 2) to points (batch, 2)."""
    return nn.Sequential(nn.Linear(in_features=2, out_features=2))


def Discriminator():
    """Section 3: points (batch, 2) to logits (batch, 1); above 0 means real."""
    return nn.Sequential(
        nn.Linear(2, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
        nn.Tanh(),
        nn.Linear(3, 1),
    )


def update_D(X, Z, nnet_D, nnet_G, loss, trainer_D):
    """Section 4: update D on real points X (batch, 2) and points made from noise Z.

    Returns the loss, summed over the batch. A D that only guesses has batch * ln 2.
    """
    batch_size = X.shape[0]
    ones = torch.ones((batch_size, 1), device=X.device)
    zeros = torch.zeros((batch_size, 1), device=X.device)
    trainer_D.zero_grad()
    real_Y = nnet_D(X)  # (batch, 1)
    synth_X = nnet_G(Z)  # (batch, 2)
    synth_Y = nnet_D(synth_X.detach())  # detach: G learns nothing here
    loss_D = (loss(real_Y, ones) + loss(synth_Y, zeros)) / 2
    loss_D.backward()
    trainer_D.step()
    return loss_D.detach()  # the number alone: a sum of losses needs no graph


def update_G(Z, nnet_D, nnet_G, loss, trainer_G):
    """Section 5: update G, so that D takes its points for real. Arguments as above."""
    batch_size = Z.shape[0]
    ones = torch.ones((batch_size, 1), device=Z.device)
    trainer_G.zero_grad()
    synth_X = nnet_G(Z)
    synth_Y = nnet_D(synth_X)  # (batch, 1)
    loss_G = loss(synth_Y, ones)
    loss_G.backward()  # D gets gradients, too; its next update clears them
    trainer_G.step()
    return loss_G.detach()


def init_params(Discriminator, Generator, lr_D, lr_G, beta1, weight_decay):
    """Section 6: draw all parameters from N(0, 0.02^2).

    Returns (loss, trainer_D, trainer_G, fig, axes).
    """
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    for w in Discriminator.parameters():
        nn.init.normal_(w, 0, 0.02)
    for w in Generator.parameters():
        nn.init.normal_(w, 0, 0.02)
    adam_D = {"lr": lr_D, "betas": (beta1, 0.999), "weight_decay": weight_decay}
    adam_G = {"lr": lr_G, "betas": (beta1, 0.999)}
    # AdamW shrinks D's weights directly. With weight decay 0 it is the document's Adam.
    trainer_D = torch.optim.AdamW(Discriminator.parameters(), **adam_D, fused=True)
    trainer_G = torch.optim.Adam(Generator.parameters(), **adam_G, fused=True)
    fig = Figure(figsize=(5, 9), dpi=60)
    axes = fig.subplots(2, 1)
    return loss, trainer_D, trainer_G, fig, axes


def compute_losses(net_D, net_G, loss, trainer_D, trainer_G, latent_dim, data_iter):
    """Section 7: train on the minibatches X (8, 2) of data_iter.

    Returns [sum of D's losses, sum of G's losses, number of points].
    """
    metrics = [0.0, 0.0, 0]
    for X in data_iter:
        batch_size = X.shape[0]
        Z = torch.randn(batch_size, latent_dim, device=X.device)
        metrics[0] += update_D(X, Z, net_D, net_G, loss, trainer_D)
        metrics[1] += update_G(Z, net_D, net_G, loss, trainer_G)  # on the same noise
        metrics[2] += batch_size
    return metrics


@torch.no_grad()
def display_gen_dist(net_G, axes, Z, data):
    """Section 8: draw 100 points of data, and what G makes of noise Z (n, 2)."""
    synth_X = net_G(Z)
    axes.cla()
    axes.scatter(*data[:100].T.cpu())
    axes.scatter(*synth_X.T.cpu())
    axes.set(xlim=(-3, 5), ylim=(-6, 10))  # the same in all pictures
    axes.legend(["real", "generated"], loc="upper left")


def display_losses(history, axes):
    """Section 9: draw the mean losses of the epochs so far."""
    axes.cla()
    axes.plot(history["loss_D"].keys(), history["loss_D"].values(), c="blue")
    axes.plot(history["loss_G"].keys(), history["loss_G"].values(), c="green")
    axes.legend(["Discriminator loss", "Generator loss"])


@torch.no_grad()
def score(net_G, data):
    """Compare the data with G's Gaussian: its mean is b, its covariance W W^T."""
    W, b = net_G[0].weight.cpu(), net_G[0].bias.cpu()
    mean, covariance = common.gaussian(data)
    distance = common.frechet_distance((b, W @ W.T), (mean, covariance))
    return {
        "wasserstein_2": distance**0.5,
        "mean": b.tolist(),
        "mean_of_data": mean.tolist(),
        "covariance": (W @ W.T).flatten().tolist(),
        "covariance_of_data": covariance.flatten().tolist(),
    }


def parse(argv):
    parser = common.make_parser(__file__, __doc__, 30, batch_size=8, sizes=(1, 1000))
    add = parser.add_argument
    add("--lr-D", type=common.rate, default=0.05, help="D's learning rate")
    add("--lr-G", type=common.rate, default=0.005, help="G's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    add("--weight-decay", type=common.fraction, default=0.005, help="of D's weights")
    add("--n", type=common.positive, default=100, help="points for --generate")
    return common.parse(parser, argv, DOCUMENT)


def generate(args):
    """--generate: draw args.n points from a saved generator."""
    net_G, fig = Generator(), Figure()
    net_G.load_state_dict(args.loaded["state"])
    display_gen_dist(net_G, fig.subplots(), torch.randn(args.n, 2), create_data())
    path = common.new_folder(args) / "samples" / "generated.png"
    fig.savefig(path)
    print(path)


def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)
    torch.set_num_threads(1)  # the nets are tiny: more would only wait for each other

    # Sections 10 and 11
    latent_dim = 2
    data = create_data().to(args.device)
    Gen, Disc = Generator().to(args.device), Discriminator().to(args.device)
    loss, trainer_D, trainer_G, fig, axes = init_params(
        Disc, Gen, args.lr_D, args.lr_G, args.beta1, args.weight_decay
    )
    fixed_Z = torch.randn(100, latent_dim).to(args.device)  # the same in all figures

    parts = {"G": Gen, "D": Disc, "trainer_G": trainer_G, "trainer_D": trainer_D}
    with common.Run(args, **parts) as run:
        for _ in run.epochs(every=5):
            data_iter = run.minibatches(data)  # the document's dataloader
            metrics = compute_losses(
                Disc, Gen, loss, trainer_D, trainer_G, latent_dim, data_iter
            )
            D, G = metrics[0] / metrics[2], metrics[1] / metrics[2]
            run.measure(loss_D=D.item(), loss_G=G.item())
            run.measure(wasserstein_2=score(Gen, data)["wasserstein_2"])
            if run.due:  # to draw takes as long as to train
                display_gen_dist(Gen, axes[1], fixed_Z, data)
                display_losses(run.history, axes[0])
                fig.savefig(run.sample)

        run.save_generator(Gen, fixed_Z)
        return run.finish(score(Gen, data))


if __name__ == "__main__":
    main()
