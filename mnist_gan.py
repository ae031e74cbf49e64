"""A GAN that draws handwritten digits: random numbers in, digits out.

A generator G turns noise, random numbers, into images. A discriminator D
tells them from the handwritten digits of MNIST. G learns to fool D. In four
minutes, grey blots become strokes, and the strokes digits. (The script
follows document 2 of README.md, 2 and 3: its to-dos done, its questions
answered.)

    python mnist_gan.py                  # train
    python mnist_gan.py --max-steps 300  # a quick try
    python mnist_gan.py --resume runs/mnist_gan/1/checkpoint.pt --epochs 50
    python mnist_gan.py --generate runs/mnist_gan/1/checkpoint.pt --n 100
    python mnist_gan.py --document       # with the document's settings
    tensorboard --logdir runs            # then open localhost:6006

Open training.gif, then losses.png: the losses hardly move while the digits
get better. So the run ends with fd, how far 10,000 generated images are from
real ones (good: below 9), and rarest, how often the rarest digit comes (1 is
fair). What next? --beta1 0.9 shows how a GAN fails: lesson 2 of LESSONS.md.
"""

# 文档 2：实验任务一：生成对抗网络（GAN）

import copy
import warnings
from collections import OrderedDict

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torchvision import datasets
from torchvision.utils import make_grid

import common
import judge
from common import fraction, positive_float, positive_int, yes_no  # options


# %% 2. 加载 MNIST 数据集: the data
def load_images(device, unit_range=False):
    """MNIST's training images (60000, 1, 28, 28), in [-1, 1] or [0, 1]; labels."""
    train_dataset = datasets.MNIST(common.DATA, train=True, download=True)  # from data/
    images = train_dataset.data.unsqueeze(1).to(device) / 255  # ToTensor's: [0, 1]
    if not unit_range:
        images = images * 2 - 1  # G's tanh makes [-1, 1]
    return images, train_dataset.targets.to(device)


# %% 2. 实现生成器代码: the generator
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


# %% 2. 实现判别器代码: the discriminator
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


# %% 思考题: two questions of the document, answered
# 思考题 1, why adversarial? What D gains in V(D, G), G loses. D's gradient tells G what
# gives its fakes away. Once G has mended that, D must find another difference. At the Nash
# equilibrium neither net gains by changing alone: fakes are distributed as the data, D says
# 0.5 to all. (If p is the density of the data and q that of G's images, the best D says
# p / (p + q). Against it, V is -2 ln 2 plus twice the Jensen-Shannon divergence of p and q,
# which is 0 only if they are the same. To-do 18's -log D(G(z)) is not zero-sum, but its
# equilibrium is the same.)
# 思考题 2, why ReLU in G, LeakyReLU in D? ReLU, max(0, x), makes sparse features. But a unit
# that is below 0 for all inputs has no gradient: it has died. LeakyReLU, 0.1 x below 0,
# cannot die. D needs it most: G's gradient comes through D. ReLU is good enough for G.


# %% 2. 实现 train_discriminator 和 train_generator: the updates
# In the document, main comes first, with to-dos 12 to 15.
# BCE, 二元交叉熵损失: -log D(x) for a label of 1, -log(1 - D(x)) for a label of 0.
# Balance: D says 0.5 to all. Then loss_D is 2 ln 2 = 1.39, and loss_G is ln 2 = 0.69.
# Both return tensors, not .item(): to read a number in each step makes a GPU wait.
def train_discriminator(
    real_images, D, G, loss_func, optim_D, batch_size, input_dim, device
):
    """Update D on real images (batch, 1, 28, 28) and fakes. Returns the loss."""
    real_images = real_images.view(-1, 28 * 28).to(device)
    real_output = D(real_images)  # (batch, 1)
    real_loss = loss_func(real_output, torch.ones_like(real_output))  # to-do 16

    noise = torch.randn(batch_size, input_dim, device=device)
    fake_images = G(noise).detach()  # (batch, 784); detach: G learns nothing here
    fake_output = D(fake_images)
    fake_loss = loss_func(fake_output, torch.zeros_like(fake_output))  # to-do 17

    loss_D = real_loss + fake_loss
    optim_D.zero_grad()  # before backward(), which adds gradients up
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


# %% How good is it?
ABOUT = {
    "fd": "distance from the test images; good: below 9; training images: 2",
    "rarest": "frequency of the rarest digit; 1 is fair; good: above 0.5",
}


@torch.no_grad()
def score(G, input_dim, unit_range, device):
    """Judge 10,000 images, always of the same noise. See ABOUT.

    It compares with MNIST. For other data: judge.assess(images, your_test_images).
    """
    source = torch.Generator().manual_seed(0)  # of random numbers
    noise = torch.randn(10_000, input_dim, generator=source).to(device)
    images = torch.cat([G(part) for part in noise.split(1000)])  # (10000, 784)
    if unit_range:
        images = images * 2 - 1
    fd, digits = judge.assess(images.view(-1, 1, 28, 28))
    shares = digits.bincount(minlength=10) / 10_000
    return {"fd": fd, "rarest": 10 * shares.min().item()}


@torch.no_grad()
def draw(G, noise, epoch, run):
    """Save a picture of what G makes of noise (64, input_dim). Returns the grid."""
    fake_images = G(noise).view(len(noise), 1, 28, 28)
    img_grid = make_grid(fake_images, normalize=True)  # 8 rows of 8
    common.save_grid(img_grid, run.frame, f"epoch {epoch}, step {run.step}")
    return img_grid


# %% The options
# The document's settings. Behind each: fd after ten epochs with it alone. By default: 17,
# and 8 after thirty.
DOCUMENT = {
    "unit_range": True,  # fd over 100: lesson 4
    "beta1": 0.9,  # fd over 1,000: lesson 2
    "lr_G": 0.0002,  # fd about 200: lesson 3
    "lr_D": 0.0002,  # fd 40 to 80. (Document 1: D needs the higher rate. Here G has it.)
    "weight_decay": 0.0,  # fd 18, but 20 to 24 after thirty: lesson 5
    "average": False,  # fd 40: lesson 6
}  # all of them: fd over 600. With low rates, beta1 does less harm.


def parse(argv):
    parser = common.make_parser("mnist_gan", __doc__, epochs=30, batch=128, of=60000)
    add = parser.add_argument
    add("--lr-G", type=positive_float, default=0.0015, help="G's learning rate")
    add("--lr-D", type=positive_float, default=0.0008, help="D's learning rate")
    add("--beta1", type=fraction, default=0.0, help="how much old gradients count")
    add("--weight-decay", type=fraction, default=0.5, help="pull of D's weights to 0")
    add("--average", action=yes_no, default=True, help="draw with the average of G")
    add("--unit-range", action=yes_no, default=False, help="images in [0, 1]")
    add("--input-dim", type=positive_int, default=100, help="numbers of noise")
    add("--hidden-dim", type=positive_int, default=256, help="units of a hidden layer")
    add("--n", type=positive_int, default=64, help="images to --generate")
    return common.parse(parser, argv, DOCUMENT, generate=["--n"])


@torch.no_grad()
def generate(args):
    """--generate: draw args.n images with a saved generator."""
    G = Generator(args.input_dim, args.hidden_dim, 28 * 28).eval()
    G.load_state_dict(common.load(args.generate)["parts"]["average_G"])
    images = G(torch.randn(args.n, args.input_dim)).view(args.n, 1, 28, 28)
    grid = make_grid(images, nrow=round(args.n**0.5), normalize=True)
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    common.save_grid(grid, path, f"{args.n} images, seed {args.seed}")
    common.show(path)


# %% 2. 定义主函数: the training
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    input_dim = args.input_dim
    output_dim = 28 * 28
    judge.load()  # needed at the end: stop now if it is missing
    # All images as one tensor, on the device: faster than a DataLoader, which makes a
    # tensor of each.
    images, labels = load_images(device, args.unit_range)
    G = Generator(input_dim, args.hidden_dim, output_dim).to(device)  # to-do 12
    D = Discriminator(output_dim, args.hidden_dim).to(device)  # to-do 13
    average_G = copy.deepcopy(G).eval()  # drawn, judged, saved (lesson 6)
    adam = {"betas": (args.beta1, 0.999), "fused": True}  # fused: the same Adam, faster
    decay = {"weight_decay": args.weight_decay}  # with 0, AdamW is Adam
    optim_G = torch.optim.Adam(G.parameters(), args.lr_G, **adam)  # to-do 14
    optim_D = torch.optim.AdamW(D.parameters(), args.lr_D, **adam, **decay)  # to-do 15
    loss_func = nn.BCELoss()
    # The same noise for all pictures. (The document draws new noise each time.)
    fixed_noise = torch.randn(64, input_dim).to(device)

    parts = {"G": G, "D": D, "average_G": average_G}
    with common.Run(args, **parts, optim_G=optim_G, optim_D=optim_D) as run:
        run.levels["loss_D"] = {"balance: D undecided, 2 ln 2": 1.386}
        run.levels["loss_G"] = {"balance: D undecided, ln 2": 0.693}
        run.levels["fd"] = {"good: below 9 (distance from real images)": 9}
        real = make_grid(images[:64], normalize=True)
        common.save_grid(real, run.folder / "real.png", "real images")
        # 3. 使用 TensorBoard: losses, fd, images, nets in the browser. (The document's
        # example logs each step, and an accuracy, which a GAN has not. Here: each epoch.)
        writer = SummaryWriter(run.folder, purge_step=run.epoch + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that add_graph traces in an old way
            # 思考题 3, the nets: in the tab Graphs, double-click Sequential: see G, D.
            writer.add_graph(nn.Sequential(OrderedDict(G=G, D=D)), fixed_noise)

        for epoch in range(run.epoch + 1, args.epochs + 1):  # args.epochs: num_epoch
            # Your own DataLoader works, too: for real_images, _ in train_loader.
            for real_images, _ in common.minibatches(args, images, labels):
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
                scores = score(average_G, input_dim, args.unit_range, device)
                run.log(fd=scores["fd"])
                writer.add_scalar("fd", scores["fd"], epoch)
            means = run.end_epoch(epoch)  # it prints (document: every 100 steps)
            writer.add_scalar("loss/D", means["loss_D"], epoch)
            writer.add_scalar("loss/G", means["loss_G"], epoch)
            writer.add_image("Generated Images", img_grid, epoch)
        writer.close()
        scores = score(average_G, input_dim, args.unit_range, device)
    return run.finish(scores, ABOUT, "training.png", "real.png")


# %% For readers of the document: its slips, which change nothing here
# 1. 了解GAN的基本概念, GAN的训练: both nets "have nothing to do with each other". So for their weights; but G
# learns only through D. D(z) in step 1 is G(z). 对抗模型 is 判别模型. 均值分布 is 均匀分布.
# 损失函数: V(D, G) is what stands behind min max, which are no part of it. L_D is all of V,
# not a part, and is to be maximised: as a loss it needs a minus.
# 纳什均衡: both cannot get the most (双方利益最大化) where one gains what the other loses
# (零和). And weights need not stand still there.
# 哪些维度: no single number of the noise decides about the digit (lesson 9).
# 2: #TOOD is a to-do. torchvision.utils is used and never imported. 优化器 has zero_grad()
# after backward(): it would clear what backward() has found.
# 3: the logs are in runs/, but TensorBoard is told to look in ./logs, where nothing is.

if __name__ == "__main__":  # 执行main()函数
    common.use_one_thread()
    main()
