"""A GAN that draws handwritten digits: noise in, MNIST out.

Mirrors document 2, sections 2 and 3: its to-dos done, its questions answered.
It takes four minutes. Grey blots become strokes, and the strokes digits.

    python mnist_gan.py                  # train
    python mnist_gan.py --max-steps 300  # a quick try
    python mnist_gan.py --resume runs/mnist_gan/1/checkpoint.pt --epochs 50
    python mnist_gan.py --generate runs/mnist_gan/1/checkpoint.pt --n 100
    python mnist_gan.py --document       # the document's settings
    tensorboard --logdir runs            # (document: ./logs)

Open training.gif, then losses.png: the losses hardly move while the digits
get better. So the run ends with fd: how far 10,000 generated images are from
the test images (good: below 9), and rarest, how often the rarest digit comes
(1 is fair). What next? --beta1 0.9 shows how a GAN fails: lesson 2.
"""

# 文档 2：实验任务一：生成对抗网络（GAN）

import argparse
import copy
import warnings
from collections import OrderedDict

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

import common
import judge
from common import rate, share, size  # types of options

# What --document brings back, with fd after ten epochs if only this is brought back. By
# default it is 17 then, and 8 after thirty.
DOCUMENT = {
    "unit_range": True,  # fd over 100: lesson 4
    "beta1": 0.9,  # fd over 1,000: lesson 2
    "lr_G": 0.0002,  # fd about 200: lesson 3
    "lr_D": 0.0002,  # fd 40 to 80. (Document 1: D needs the higher rate. Here G has it.)
    "weight_decay": 0.0,  # fd 19, but over 20 after thirty: lesson 5
    "average": False,  # fd 40: lesson 6
}  # all of them: fd about 600. With low rates, beta1 does less harm.
ABOUT = {
    "fd": "distance from the test images; good: below 9; training images: 2",
    "rarest": "frequency of the rarest digit; 1 is fair; good: above 0.5",
}


# %% 1. GAN的训练, GAN的损失函数
# The document says that both nets have nothing to do with each other. That is so for
# their weights; but G learns only through D: its gradient comes back through D.
# Slips: D(z) in step 1 is G(z); 均值分布 is 均匀分布 (uniform); #TOOD is a to-do. V(D, G)
# is what stands behind min max, which are no part of it. L_D is all of V, not a part,
# and is to be maximised: as a loss it needs a minus. 哪些维度: see lesson 9.


# %% 2. 实现生成器代码
class Generator(nn.Module):
    """Noise (batch, input_dim) to flat images (batch, output_dim) in [-1, 1]."""

    def __init__(self, input_dim, hidden_dim, output_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),  # to-do 1
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),  # to-do 2
            nn.ReLU(),
            nn.Linear(hidden_dim, output_dim),  # to-do 3
            nn.Tanh(),
        )

    def forward(self, x):
        return self.model(x)  # to-do 4


# %% 2. 实现判别器代码
class Discriminator(nn.Module):
    """Flat images (batch, input_dim) to the probability of being real (batch, 1)."""

    def __init__(self, input_dim, hidden_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(input_dim, hidden_dim),  # to-do 5
            nn.LeakyReLU(negative_slope=0.1),  # to-do 6
            nn.Linear(hidden_dim, hidden_dim),  # to-do 7
            nn.LeakyReLU(negative_slope=0.1),  # to-do 8
            nn.Linear(hidden_dim, 1),  # to-do 9
            nn.Sigmoid(),  # to-do 10
        )

    def forward(self, x):
        return self.model(x)  # to-do 11


# 思考题 1: what D gains in V(D, G), G loses. D's gradient tells G what gives its fakes
# away. Once G has mended that, D must find another difference. At the Nash equilibrium
# neither net gains by changing alone: fakes are distributed as the data, D says 0.5 to
# all. (To-do 18's -log D(G(z)) is not zero-sum; its equilibrium is the same.)
# 思考题 2: ReLU, max(0, x), makes sparse features. But a unit that is below 0 for all
# inputs has no gradient: it has died. LeakyReLU, 0.1 x below 0, cannot die. D needs it
# most: G's gradient comes through D. ReLU is good enough for G.


# %% 2. 实现train_discriminator和train_generator
# In the document, main comes first, with to-dos 12 to 15.
# BCE, 二元交叉熵损失: -log D(x) for a label of 1, -log(1 - D(x)) for a label of 0.
# Balance: D says 0.5 to all. Then loss_D is 2 ln 2 = 1.39, and loss_G is ln 2 = 0.69.
# Both return tensors, not .item(): to read a number in each step makes a GPU wait.
def train_discriminator(
    real_images, D, G, loss_func, optim_D, batch_size, input_dim, device
):
    """Update D on real images (batch, 784) and as many fakes. Returns the loss."""
    real_output = D(real_images)  # (batch, 1); load_images has flattened real_images
    real_loss = loss_func(real_output, torch.ones_like(real_output))  # to-do 16

    noise = torch.randn(batch_size, input_dim, device=device)
    fake_images = G(noise).detach()  # (batch, 784); detach: G learns nothing here
    fake_output = D(fake_images)
    fake_loss = loss_func(fake_output, torch.zeros_like(fake_output))  # to-do 17

    loss_D = real_loss + fake_loss
    optim_D.zero_grad()  # the tip (优化器) has it after backward(): it would clear all
    loss_D.backward()
    optim_D.step()
    return loss_D.detach()


def train_generator(D, G, loss_func, optim_G, batch_size, input_dim, device):
    """Update G so that D takes its images for real. Returns the loss."""
    noise = torch.randn(batch_size, input_dim, device=device)
    fake_images = G(noise)  # (batch, 784)
    fake_output = D(fake_images)
    # To-do 18: -log D(G(z)). The document's L_G, log(1 - D(G(z))), has hardly any
    # gradient while D wins (Goodfellow et al., 2014, section 3).
    loss_G = loss_func(fake_output, torch.ones_like(fake_output))

    optim_G.zero_grad()
    loss_G.backward()  # D gets gradients, too; its zero_grad clears them
    optim_G.step()
    return loss_G.detach()


# %% Data, options, score
def load_images(device, unit_range=False):
    """MNIST's training images (60000, 784), in [-1, 1] or [0, 1]."""
    images, _ = common.load_mnist()
    images = images.view(-1, 28 * 28).to(device) / 255  # as ToTensor does: [0, 1]
    if unit_range:
        return images
    return images * 2 - 1  # tanh makes [-1, 1]


def parse(argv):
    parser = common.make_parser("mnist_gan", __doc__, epochs=30, batch_size=128)
    add = parser.add_argument
    flag = argparse.BooleanOptionalAction
    add("--lr-G", type=rate, default=0.0015, metavar="X", help="G's learning rate")
    add("--lr-D", type=rate, default=0.0008, metavar="X", help="D's learning rate")
    add("--beta1", type=share, default=0.0, metavar="X", help="Adam's momentum")
    add("--weight-decay", type=share, default=0.5, metavar="X", help="of D's weights")
    add("--average", action=flag, default=True, help="draw with the average of G")
    add("--unit-range", action=flag, default=False, help="images in [0, 1]")
    add("--input-dim", type=size, default=100, metavar="N", help="numbers of noise")
    add("--hidden-dim", type=size, default=256, metavar="N", help="hidden units")
    add("--n", type=size, default=64, metavar="N", help="images to --generate")
    return common.parse(parser, argv, DOCUMENT)


@torch.no_grad()
def generate(args):
    """--generate: draw args.n images with a saved generator."""
    G = Generator(args.input_dim, args.hidden_dim, 28 * 28).eval()
    G.load_state_dict(args.checkpoint["parts"]["average_G"])
    images = G(torch.randn(args.n, args.input_dim)).view(args.n, 1, 28, 28)
    grid = make_grid(images, nrow=round(args.n**0.5), normalize=True)
    path = common.next_path(common.make_folder(args), "generated-{}.png")
    common.save_grid(grid, path, f"{args.n} images, seed {args.seed}")
    print(path)


@torch.no_grad()
def score(G, input_dim, unit_range, device):
    """Judge 10,000 images, always of the same noise. See ABOUT."""
    same = torch.Generator().manual_seed(0)  # PyTorch's word for random numbers
    noise = torch.randn(10_000, input_dim, generator=same).to(device)
    images = G(noise).view(10_000, 1, 28, 28)
    if unit_range:
        images = images * 2 - 1
    fd, digits = judge.assess(images)
    shares = digits.bincount(minlength=10) / 10_000
    return {"fd": fd, "rarest": 10 * shares.min().item()}


@torch.no_grad()
def draw(G, noise, epoch, run):
    """Save a picture of what G makes of noise (64, input_dim). Returns the grid."""
    fake_images = G(noise).view(len(noise), 1, 28, 28)
    img_grid = make_grid(fake_images, normalize=True)  # 8 rows of 8
    common.save_grid(img_grid, run.frame, f"epoch {epoch}, step {run.step}")
    return img_grid


# %% 2. 定义主函数
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    input_dim = args.input_dim
    output_dim = 28 * 28
    judge.load()  # it scores the end: is it there?
    # All images at once, on the device: faster than a DataLoader that makes a tensor of
    # each. (Your own works here, too: for real_images, _ in train_loader.)
    images = load_images(device, args.unit_range)  # (60000, 784)
    G = Generator(input_dim, args.hidden_dim, output_dim).to(device)  # to-do 12
    D = Discriminator(output_dim, args.hidden_dim).to(device)  # to-do 13
    average_G = copy.deepcopy(G).eval()  # what is drawn, judged and saved
    adam = {"betas": (args.beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    decay = {"weight_decay": args.weight_decay}  # 0 makes AdamW the document's Adam
    optim_G = torch.optim.Adam(G.parameters(), args.lr_G, **adam)  # to-do 14
    optim_D = torch.optim.AdamW(D.parameters(), args.lr_D, **adam, **decay)  # to-do 15
    loss_func = nn.BCELoss()
    # The same noise for all pictures. (The document draws new noise each time.)
    fixed_noise = torch.randn(64, input_dim).to(device)

    parts = {"G": G, "D": D, "average_G": average_G}
    with common.Run(args, **parts, optim_G=optim_G, optim_D=optim_D) as run:
        run.levels = {
            "loss_D": {"balance: D undecided, 2 ln 2": 1.386},
            "loss_G": {"balance: D undecided, ln 2": 0.693},
            "fd": {"good": 9},
        }
        # Section 3. (The document's folder is runs/experiment_1; it has no add_graph.)
        writer = SummaryWriter(run.folder, purge_step=run.epoch + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that add_graph traces in an old way
            # 思考题 3: in TensorBoard's tab Graphs, double-click Sequential: see G, D.
            writer.add_graph(nn.Sequential(OrderedDict(G=G, D=D)), fixed_noise)

        for epoch in range(run.epoch + 1, args.epochs + 1):  # args.epochs: num_epoch
            for (real_images,) in common.minibatches(args, images):  # (128, 784)
                run.step += 1
                batch_size = len(real_images)  # the last: 96 (document: 128 fakes)
                loss_D = train_discriminator(
                    real_images, D, G, loss_func, optim_D, batch_size, input_dim, device
                )
                loss_G = train_generator(
                    D, G, loss_func, optim_G, batch_size, input_dim, device
                )
                run.log(loss_D=loss_D, loss_G=loss_G)  # total_loss_D, total_loss_G
                if not args.average:
                    average_G.load_state_dict(G.state_dict())
                elif run.step % 10 == 0:
                    common.update_average(average_G, G, run.step)
                if run.step in common.EARLY:
                    draw(average_G, fixed_noise, epoch, run)

            img_grid = draw(average_G, fixed_noise, epoch, run)
            if epoch % 5 == 0:  # (the document has no score)
                run.log(fd=score(average_G, input_dim, args.unit_range, device)["fd"])
            means = run.end_epoch(epoch)  # it prints (document: every 100 steps)
            writer.add_scalar("loss/D", means["loss_D"], epoch)
            writer.add_scalar("loss/G", means["loss_G"], epoch)
            writer.add_image("Generated Images", img_grid, epoch)
        writer.close()
        quality = score(average_G, input_dim, args.unit_range, device)
    return run.finish(quality, ABOUT)


if __name__ == "__main__":  # 执行main()函数
    common.use_one_thread()
    main()
