"""An adversarial autoencoder: a digit becomes ten numbers, and is drawn again.

An encoder turns an image into ten numbers, its code; a decoder turns a code
into an image. A discriminator D judges codes: "real" is noise, N(0, 1) (the
bell curve), and "fake" the code of an image. Codes learn to look like noise.
So noise, decoded, is a new digit. It takes six minutes. (The script follows
document 5 of README.md, its program.)

    python aae_mnist.py                  # train
    python aae_mnist.py --max-steps 300  # a quick try
    python aae_mnist.py --resume runs/aae_mnist/1/checkpoint.pt --epochs 30
    python aae_mnist.py --generate runs/aae_mnist/1/checkpoint.pt --n 100
    python aae_mnist.py --document       # with the document's settings

Open walk.png and reconstructions.png, then training.gif: new digits. The run
ends with error, of a pixel in [-1, 1] (good: below 0.08), code_distance, of
the codes from noise (good: below 0.3), fd, how far new digits are from real
ones (good: below 16), and the same of reconstructions (good: below 7). What
next? --adversarial 0.001: lesson 10 of LESSONS.md.
"""

# 文档 5：看不懂我吃屎系列——GAN

import copy

import torch
from matplotlib.figure import Figure
from torch import nn, optim
from torchvision import datasets
from torchvision.transforms.functional import resize
from torchvision.utils import make_grid

import common
import judge
from common import fraction, positive_float, positive_int, yes_no  # options

# %% 实现一个简单的GAN: the options
# The document's settings. Behind each: fd after five epochs with it alone. By default: 24,
# and 14 after twenty.
DOCUMENT = {
    "epochs": 200,  # ten times as long; not measured
    "adversarial": 0.001,  # fd about 50: lesson 10
    "lr": 0.0002,  # fd 33: lesson 3
    "average": False,  # fd 28: lesson 6
}


def parse(argv):
    parser = common.make_parser("aae_mnist", __doc__, epochs=20, batch=64, of=60000)
    add = parser.add_argument
    add("--lr", type=positive_float, default=0.001, help="learning rate of all nets")
    add("--b1", type=fraction, default=0.5, help="how much old gradients count")
    add("--b2", type=fraction, default=0.999, help="the same, of squared gradients")
    add("--latent-dim", type=positive_int, default=10, help="length of a code")
    add("--img-size", type=positive_int, default=32, help="height and width of images")
    add("--sample-interval", type=positive_int, default=400, help="steps per picture")
    add("--adversarial", type=fraction, default=0.05, help="weight of D's verdict")
    add("--average", action=yes_no, default=True, help="draw with average weights")
    add("--n", type=positive_int, default=100, help="images to --generate")
    return common.parse(parser, argv, DOCUMENT, generate=["--n"])


# %% Configure data loader: the data
def load_images(img_size, device, train=True):
    """MNIST's images (n, 1, img_size, img_size), in [-1, 1], and their labels (n,)."""
    dataset = datasets.MNIST(common.DATA, train=train, download=True)
    images = resize(dataset.data.unsqueeze(1), [img_size, img_size])  # all, once
    images = (images.to(device) / 255 - 0.5) / 0.5
    return images, dataset.targets.to(device)


# %% Encoder (编码部分), Decoder, Discriminator: the nets
def reparameterization(mu, logvar):
    """Draw codes from N(mu, exp(logvar)), all (batch, latent_dim); gradients pass."""
    std = torch.exp(logvar / 2)  # it becomes nearly 0: codes are hardly random
    sampled_z = torch.randn_like(std)
    return sampled_z * std + mu


class Encoder(nn.Module):
    """Images (batch, 1, img_size, img_size) to codes (batch, latent_dim), random."""

    def __init__(self, latent_dim, img_size):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(img_size**2, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.mu = nn.Linear(512, latent_dim)
        self.logvar = nn.Linear(512, latent_dim)

    def forward(self, img):
        img_flat = img.flatten(1)
        x = self.model(img_flat)
        return reparameterization(self.mu(x), self.logvar(x))


class Decoder(nn.Module):
    """Codes (batch, latent_dim) to images (batch, 1, img_size, img_size) in [-1, 1]."""

    def __init__(self, latent_dim, img_size):
        super().__init__()
        self.img_shape = (1, img_size, img_size)
        self.model = nn.Sequential(
            nn.Linear(latent_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 512),
            nn.BatchNorm1d(512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, img_size**2),
            nn.Tanh(),
        )

    def forward(self, z):
        img_flat = self.model(z)
        return img_flat.unflatten(1, self.img_shape)


class Discriminator(nn.Module):
    """Codes (batch, latent_dim) to the probability that they are from N(0, I)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(latent_dim, 512),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(512, 256),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(256, 1),
            nn.Sigmoid(),
        )

    def forward(self, z):
        return self.model(z)  # (batch, 1)


# %% sample_image: the pictures
# The decoder is in eval mode. In training mode, as in the document, batch norm would
# mix the codes z into its running mean and variance, which the saved decoder needs.
@torch.no_grad()
def sample_image(decoder, z, path, title, n_row=10):
    """Save a grid of what the decoder draws from codes z (n, latent_dim)."""
    gen_imgs = decoder(z)
    grid = make_grid(gen_imgs, nrow=n_row, normalize=True, value_range=(-1, 1))
    common.save_grid(grid, path, title)


@torch.no_grad()
def save_reconstructions(encoder, decoder, imgs, path):
    """Save three rows of ten images, each over a row of their reconstructions."""
    rows = []
    for i in range(0, 30, 10):
        ten = imgs[i : i + 10]
        rows.append(ten)
        rows.append(decoder(encoder(ten)))
    save_rows(torch.cat(rows), ["test images", "reconstructed"] * 3, path)


@torch.no_grad()
def save_walk(encoder, decoder, imgs, labels, path):
    """Save walks from digit to digit. At the ends of a row stand real images."""
    steps = torch.linspace(0, 1, 8, device=imgs.device).view(8, 1)
    rows = []
    names = []
    for digit in range(9):
        first = find_typical(imgs, labels, digit)
        last = find_typical(imgs, labels, digit + 1)
        codes = torch.lerp(encoder(first), encoder(last), steps)  # (8, latent_dim)
        rows += [first, decoder(codes), last]
        names.append(f"real {digit} ... real {digit + 1}")
    save_rows(torch.cat(rows), names, path)


def find_typical(imgs, labels, digit):
    """The image (1, 1, img_size, img_size) that is nearest to the mean of its digit."""
    imgs = imgs[labels == digit]
    distances = (imgs - imgs.mean(0)).square().flatten(1).sum(1)
    nearest = distances.argmin()
    return imgs[nearest : nearest + 1]


def save_rows(imgs, names, path):
    """Save images (n, 1, img_size, img_size), ten a row, with a name to each row."""
    grid = make_grid(imgs, nrow=10, normalize=True, value_range=(-1, 1)).cpu()
    fig = Figure((8, 0.68 * len(names)))
    axes = fig.subplots()
    axes.imshow(grid.permute(1, 2, 0).numpy())
    row = grid.shape[1] / len(names)  # its height
    axes.set_yticks(torch.arange(len(names)) * row + row / 2, names)
    axes.set_xticks([])
    fig.savefig(path, bbox_inches="tight")


# %% How good is it?
ABOUT = {
    "error": "of a pixel in [-1, 1], of reconstructed test images; good: below 0.08",
    "fd_reconstructed": "distance of reconstructions from test images; good: below 7",
    "code_distance": "of the test images' codes from N(0, I); good: below 0.3",
    "fd": "distance of samples from test images; good: below 16; training images: 2",
}


@torch.no_grad()
def score(encoder, decoder, imgs):
    """Judge both by test images (n, 1, img_size, img_size), MNIST's or yours."""
    with torch.random.fork_rng():  # training goes on with its own random numbers
        torch.manual_seed(0)  # here, always the same
        codes = encoder(imgs)  # (n, latent_dim)
        z = torch.randn_like(codes)
    latent_dim = codes.shape[1]
    mean = torch.zeros(latent_dim)
    covariance = torch.eye(latent_dim)
    code_distance = judge.frechet_distance(codes, mean, covariance) ** 0.5
    decoded_imgs = decoder(codes)
    error = nn.functional.l1_loss(decoded_imgs, imgs).item()
    # The judge wants 28 x 28. All are shrunk alike.
    small_imgs = resize(imgs, [28, 28], antialias=True)
    small_decoded = resize(decoded_imgs, [28, 28], antialias=True)
    samples = resize(decoder(z), [28, 28], antialias=True)
    fd_decoded, _ = judge.assess(small_decoded, small_imgs)
    fd, _ = judge.assess(samples, small_imgs)
    return {
        "error": error,
        "fd_reconstructed": fd_decoded,
        "code_distance": code_distance,
        "fd": fd,
    }


@torch.no_grad()
def generate(args):
    """--generate: draw args.n images with a saved decoder."""
    decoder = Decoder(args.latent_dim, args.img_size).eval()
    decoder.load_state_dict(common.load(args.generate)["parts"]["average_decoder"])
    z = torch.randn(args.n, args.latent_dim)
    path = common.next_path(f"{common.make_folder(args)}/generated-{{}}.png")
    title = f"{args.n} images, seed {args.seed}"
    sample_image(decoder, z, path, title, n_row=round(args.n**0.5))
    common.show(path)


# %% Training
# A variational autoencoder pulls each code towards N(0, 1) by a term of its loss (the KL
# divergence). Here D does it, for all codes together. (G is encoder and decoder.)
def main(argv=None):
    opt = parse(argv)
    torch.manual_seed(opt.seed)
    if opt.generate:
        return generate(opt)
    adversarial_loss = nn.BCELoss()
    pixelwise_loss = nn.L1Loss()
    device = opt.device
    judge.load()  # needed at the end: stop now if it is missing
    encoder = Encoder(opt.latent_dim, opt.img_size).to(device)
    decoder = Decoder(opt.latent_dim, opt.img_size).to(device)
    discriminator = Discriminator(opt.latent_dim).to(device)
    # In eval mode, batch norm uses its running mean and variance, not the batch's.
    average_encoder = copy.deepcopy(encoder).eval()
    average_decoder = copy.deepcopy(decoder).eval()
    train_imgs, train_labels = load_images(opt.img_size, device)
    test_imgs, test_labels = load_images(opt.img_size, device, train=False)
    adam = {"lr": opt.lr, "betas": (opt.b1, opt.b2), "fused": True}
    optimizer_G = optim.Adam([*encoder.parameters(), *decoder.parameters()], **adam)
    optimizer_D = optim.Adam(discriminator.parameters(), **adam)
    # The same codes for all samples. (The document draws new ones each time.)
    fixed_z = torch.randn(100, opt.latent_dim).to(device)

    parts = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator}
    parts |= {"average_encoder": average_encoder, "average_decoder": average_decoder}
    parts |= {"optimizer_G": optimizer_G, "optimizer_D": optimizer_D}
    with common.Run(opt, **parts) as run:
        run.levels["loss_D"] = {"balance: D undecided, ln 2 (half the sum)": 0.693}
        run.levels["error"] = {"good: below 0.08 (of a pixel)": 0.08}
        run.levels["fd"] = {"good: below 16 (new digits from real ones)": 16}
        for epoch in range(run.epoch + 1, opt.epochs + 1):
            # Your own DataLoader works, too: for imgs, _ in dataloader.
            for imgs, _ in common.minibatches(opt, train_imgs, train_labels):
                run.step += 1
                real_imgs = imgs.to(device)  # (64, 1, 32, 32)
                # Adversarial ground truths. D judges codes: noise is valid, codes of
                # real images are fake. (The document's text says it as of a plain GAN:
                # real data 1, generated 0.)
                valid = torch.ones(len(real_imgs), 1, device=device)
                fake = torch.zeros(len(real_imgs), 1, device=device)
                # Train the generator, that is, encoder and decoder. (The document's
                # text has D first, its program not: see lesson 8.)
                optimizer_G.zero_grad()
                encoded_imgs = encoder(real_imgs)  # (64, latent_dim)
                decoded_imgs = decoder(encoded_imgs)
                # The codes should fool D, and the pixels come back as they were. (The
                # document calls p_loss optional, 有的话可以加上. Without it the decoder
                # learns nothing: D sees only codes.)
                a_loss = adversarial_loss(discriminator(encoded_imgs), valid)
                p_loss = pixelwise_loss(decoded_imgs, real_imgs)
                g_loss = opt.adversarial * a_loss + (1 - opt.adversarial) * p_loss
                g_loss.backward()  # D gets gradients, too; its zero_grad clears them
                optimizer_G.step()

                # Train the discriminator
                optimizer_D.zero_grad()
                z = torch.randn_like(encoded_imgs)  # what codes should look like
                real_loss = adversarial_loss(discriminator(z), valid)
                fake_loss = adversarial_loss(discriminator(encoded_imgs.detach()), fake)
                d_loss = 0.5 * (real_loss + fake_loss)
                d_loss.backward()
                optimizer_D.step()

                run.log(loss_D=d_loss, loss_G=g_loss)  # (the document prints each)
                if not opt.average:
                    average_encoder.load_state_dict(encoder.state_dict())
                    average_decoder.load_state_dict(decoder.state_dict())
                elif run.step % 10 == 0:
                    common.update_average(average_encoder, encoder, run.step)
                    common.update_average(average_decoder, decoder, run.step)
                batches_done = run.step
                if batches_done % opt.sample_interval == 0 or run.step in common.EARLY:
                    title = f"epoch {epoch}, step {run.step}"
                    sample_image(average_decoder, fixed_z, run.frame, title)

            title = f"epoch {epoch}, step {run.step}"
            sample_image(average_decoder, fixed_z, run.frame, title)
            if epoch % 5 == 0:  # (the document has no score)
                scores = score(average_encoder, average_decoder, test_imgs)
                run.log(error=scores["error"], fd=scores["fd"])
            run.end_epoch(epoch)
        nets = (average_encoder, average_decoder)
        save_reconstructions(*nets, test_imgs, run.folder / "reconstructions.png")
        save_walk(*nets, test_imgs, test_labels, run.folder / "walk.png")
        scores = score(*nets, test_imgs)
    return run.finish(scores, ABOUT, "walk.png", "reconstructions.png", "training.png")


# %% For readers of the document: its slips, which change nothing here
# The title says GAN: it is an adversarial autoencoder. --n_cpu is used nowhere.
# --channels is always 1. The help of --b2 says first order: it is the second. 解吗 is 解码,
# 领一个 is 另一个. A Variable is a tensor, and Tensor(n, 1).fill_(1.0) is torch.ones(n, 1).
# The last sentence takes 输出概率是0.5 for the best result: lesson 1 shows a run that has
# it, and draws blurs.

if __name__ == "__main__":
    common.use_one_thread()
    main()
