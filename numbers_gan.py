"""A GAN that names numbers with a pattern: multiples of 5, odd numbers, ...

Mirrors document 4, 3.5, and exercise 3.4. At first G names any numbers. After
a thousand epochs, of one step each, only those of the pattern are left. To
name all of them equally often takes thousands more: ten seconds.

    python numbers_gan.py                             # multiples of 5
    python numbers_gan.py --multiple 3                # exercise 3.4
    python numbers_gan.py --multiple 2 --remainder 1  # odd numbers
    python numbers_gan.py --resume runs/numbers_gan/1/checkpoint.pt
    python numbers_gan.py --generate runs/numbers_gan/1/checkpoint.pt --n 20
    python numbers_gan.py --document                 # the document's settings

Open new_data.png and training.gif: how often each number comes. The run ends
with silent, the share of vectors that name no number (usual: 0.01). Of the
others, fit is the share of right numbers, appear the share of the possible
ones that come up (best: 1 and 1); rarest and commonest compare the extremes
with a fair share. What next? --no-average: see lesson 6.
"""

# 文档 4：第三章：生成对抗网络：形状和数量生成

import argparse
import copy

import torch
from matplotlib.figure import Figure
from torch import nn

import common

# What --document brings back. rarest: with only this brought back (seed 0). By default
# it is 0.63.
DOCUMENT = {
    "beta1": 0.9,  # rarest 0.27: lesson 2
    "average": False,  # rarest 0.09: lesson 6
    "watch": "remainder",  # rarest 0.002: see distance, and lesson 7
    "patience": 800,
}  # all of them: rarest 0.004
ABOUT = {
    "silent": "share of vectors that name no number; usual: 0.01",
    "fit": "share of right numbers among the others; 1 is best",
    "appear": "share of the possible numbers that came up; 1 is best",
    "rarest": "frequency of the rarest of them; 1 is fair",
    "commonest": "frequency of the commonest; 1 is fair",
}


# %% 3.5.1
def onehot_encoder(position, depth):
    """Indices (n,), or one, to one-hot vectors (n, depth), or (depth,)."""
    return nn.functional.one_hot(torch.as_tensor(position), depth).float()


def int_to_onehot(number):
    return onehot_encoder(number, 100)  # numbers are from 0 to 99


def onehot_to_int(onehot):
    return torch.argmax(onehot).item()  # of one vector (100,)


# %% 3.5.2
def gen_sequence(multiple, remainder, n=10):
    """n random numbers (n,) from 0 to 99 that leave this remainder."""
    how_many = len(range(remainder, 100, multiple))  # 20, if they are multiples of 5
    indices = torch.randint(0, how_many, (n,))
    return indices * multiple + remainder


def gen_batch(multiple, remainder, n=10):
    return int_to_onehot(gen_sequence(multiple, remainder, n))  # (n, 100)


def data_to_num(data):
    """Vectors (n, 100) to numbers (n,), where each is largest; -1: it is all zeros."""
    num = torch.argmax(data, dim=-1)  # all zeros give 0, which the document counts
    return torch.where(data.amax(dim=-1) > 0, num, -1)


def Discriminator():
    """Vectors (n, 100) to the probability of being real (n, 1)."""
    # D adds up its inputs, each times a weight. So it can tell how often each number
    # comes on average, but not whether one vector names one number or none.
    return nn.Sequential(nn.Linear(100, 1), nn.Sigmoid())


def Generator():
    """Noise (n, 100) to vectors (n, 100), none of them negative."""
    return nn.Sequential(nn.Linear(100, 100), nn.ReLU())


# %% 3.5.3
def train_D_G(true_data, D, G, loss_fn, optimD, optimG):
    """Update D on real vectors (n, 100), D on fakes, then G.

    Returns the fakes, D's loss, G's loss. (The document only describes it; there it
    makes its own batch.)
    """
    n = len(true_data)
    device = true_data.device
    real_labels = torch.ones((n, 1), device=device)
    fake_labels = torch.zeros_like(real_labels)
    optimD.zero_grad()
    real_loss = loss_fn(D(true_data), real_labels)
    real_loss.backward()
    optimD.step()

    optimD.zero_grad()
    noise = torch.randn((n, 100), device=device)
    generated_data = G(noise).detach()  # G learns nothing here
    fake_loss = loss_fn(D(generated_data), fake_labels)
    fake_loss.backward()
    optimD.step()

    optimG.zero_grad()
    noise = torch.randn((n, 100), device=device)
    generated_data = G(noise)
    loss_G = loss_fn(D(generated_data), real_labels)
    loss_G.backward()  # D gets gradients, too; its next update clears them
    optimG.step()
    return generated_data.detach(), (real_loss + fake_loss).detach(), loss_G.detach()


class EarlyStop:
    """The same class as in 3.3.3: stop says True after `patience` calls in vain."""

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


# The trap of the document's gdif: ten lucky numbers make 0, which can never improve. So
# the stop comes 800 epochs later. And a G that only says 0 is perfect.
def distance(generated_data, multiple, remainder):
    """Listing 3.11: the mean square of what is left over, 0 if all numbers fit."""
    nums = data_to_num(generated_data)
    remainders = (nums - remainder) % multiple  # (n,)
    remainders[nums < 0] = multiple  # no number: worse than all others
    # (The document compares (10,) with zeros (10, 1): a warning, but the same mean.)
    return remainders.float().square().mean().item()


def count(generated_data, multiple, remainder):
    """Vectors (n, 100) to the number of those that name a number, and their shares.

    shares: of each number of the pattern, among those that are named.
    """
    nums = data_to_num(generated_data).cpu()
    said = nums[nums >= 0]
    counts = said.bincount(minlength=100)[remainder::multiple]
    return len(said), counts / max(len(said), 1)


def variation(generated_data, multiple, remainder):
    """Our gdif: the share of vectors (n, 100) to change for a perfect result."""
    said, shares = count(generated_data, multiple, remainder)
    fair = 1 / len(shares)
    lacks = fair - shares * said / len(generated_data)
    return lacks.clamp(min=0).sum().item()


# %% The score, a picture, the options
def score(generated_data, multiple, remainder):
    """Judge vectors (n, 100), n in the thousands. See ABOUT."""
    said, shares = count(generated_data, multiple, remainder)
    return {
        "silent": 1 - said / len(generated_data),
        "fit": shares.sum().item(),
        "appear": (shares > 0).float().mean().item(),
        "rarest": shares.min().item() * len(shares),
        "commonest": shares.max().item() * len(shares),
    }


@torch.no_grad()
def draw(title, generated_data, path, multiple, remainder):
    """Show how often each number comes in vectors (n, 100)."""
    nums = data_to_num(generated_data).cpu()
    shares = nums[nums >= 0].bincount(minlength=100).numpy() / len(nums)
    silent = (nums < 0).float().mean()
    possible = range(remainder, 100, multiple)
    top = 4 / len(possible)
    fig = Figure(figsize=(8, 4), dpi=80, layout="constrained")
    axes = fig.subplots()
    axes.bar(range(100), shares, color="r", label="wrong")
    axes.bar(possible, shares[possible], color="g", label="right")  # over the red ones
    axes.axhline(1 / len(possible), color="grey", ls=":", label="fair share")
    axes.set(xlabel="number", ylabel="share", xlim=(-1, 100), ylim=(0, top))
    for number in (shares > top).nonzero()[0]:
        text = f"{shares[number]:.2f}"  # the bar is cut off
        axes.text(number, top, text, ha="center", va="bottom", fontsize="x-small")
    first = ", ".join(str(number) for number in possible[:3])
    fig.suptitle(f"to learn: {first}, ...   {title}: {silent:.1%} name no number")
    fig.legend(loc="outside lower right", ncols=3)
    fig.savefig(path)


def below_100(text):
    value = int(text)
    if not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 99")
    return value


def parse(argv):
    parser = common.make_parser("numbers_gan", __doc__, epochs=10_000, batch_size=10)
    add = parser.add_argument
    flag = argparse.BooleanOptionalAction
    size = common.positive_int
    pattern = "learn the multiples of N"  # 练习 3.4
    add("--multiple", type=size, default=5, metavar="N", help=pattern)
    plus = "or those numbers plus N"
    add("--remainder", type=below_100, default=0, metavar="N", help=plus)
    rate = common.positive_float
    add("--lr", type=rate, default=0.0005, metavar="X", help="Adam's learning rate")
    share = common.fraction
    add("--beta1", type=share, default=0.5, metavar="X", help="Adam's momentum")
    add("--average", action=flag, default=True, help="draw with the average of G")
    watch = ["variation", "remainder"]
    add("--watch", choices=watch, default="variation", help="what stops the training")
    patience = "stop after N looks without progress"
    add("--patience", type=size, default=60, metavar="N", help=patience)
    add("--n", type=size, default=10, metavar="N", help="numbers to --generate")
    args = common.parse(parser, argv, DOCUMENT)
    if args.multiple > 99:
        parser.error(f"--multiple {args.multiple} is not from 1 to 99")
    if args.remainder >= args.multiple:
        parser.error(f"--remainder {args.remainder} must be below --multiple")
    return args


@torch.no_grad()
def generate(args):
    """--generate: print args.n numbers of a saved generator; draw their shares."""
    G = Generator().eval()
    G.load_state_dict(args.checkpoint["parts"]["average_G"])
    new_data = G(torch.randn((args.n, 100)))
    path = common.make_folder(args) / "samples" / "generated.png"
    title = f"{args.n} vectors, seed {args.seed}"
    draw(title, new_data, path, args.multiple, args.remainder)
    common.say(f"{data_to_num(new_data)}  (-1: no number)")
    common.say(path)


# %% Listing 3.11
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    device = args.device
    pattern = (args.multiple, args.remainder)
    common.say(onehot_encoder(1, 5))  # see 3.5.1
    common.say(onehot_to_int(int_to_onehot(75)))
    common.say(data_to_num(gen_batch(*pattern)))  # see 3.5.2
    D = Discriminator().to(device)
    G = Generator().to(device)
    average_G = copy.deepcopy(G).eval()  # what is drawn, judged and saved
    loss_fn = nn.BCELoss()
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}  # fused: faster
    optimD = torch.optim.Adam(D.parameters(), **adam)
    optimG = torch.optim.Adam(G.parameters(), **adam)
    stopper = EarlyStop(args.patience)
    fixed_noise = torch.randn((4096, 100)).to(device)  # for the stop, and to draw

    parts = {"D": D, "G": G, "average_G": average_G, "stopper": stopper}
    with common.Run(args, **parts, optimD=optimD, optimG=optimG) as run:
        run.levels = {
            "loss_D": {"D says 0.5 to all: 2 ln 2, the sum": 1.386},
            "loss_G": {"D says 0.5 to all: ln 2": 0.693},
        }
        for i in run.epochs(every=500):  # an epoch is one update, as in the document
            batch = gen_batch(*pattern, args.batch_size).to(device)
            for (true_data,) in run.minibatches(batch):  # all 10 of them, at once
                generated_data, loss_D, loss_G = train_D_G(
                    true_data, D, G, loss_fn, optimD, optimG
                )
                run.log(loss_D=loss_D, loss_G=loss_G)  # (document: gloss, dloss stay 0)
                if args.average:
                    common.update_average(average_G, G, run.step)
                else:
                    average_G.load_state_dict(G.state_dict())
                if run.due:
                    common.say(data_to_num(generated_data))  # (document: every 50)
                    draw(f"epoch {i}", average_G(fixed_noise), run.sample, *pattern)
            if args.watch == "remainder":  # the document's
                dis = distance(generated_data, *pattern)
                if stopper.stop(dis):
                    run.stop = f"no better for {stopper.steps} epochs; raise --patience"
            elif i % 100 == 0:
                dis = variation(average_G(fixed_noise), *pattern)
                run.log(variation=dis)
                if stopper.stop(dis):
                    run.stop = f"no better for {stopper.steps} looks; raise --patience"

        draw(f"epoch {run.epoch}", average_G(fixed_noise), run.sample, *pattern)

    # 3.5.4. TorchScript is deprecated, so torch.export.
    common.say("Saving G")
    path = run.folder / "generator.pt2"
    rows = ({0: torch.export.Dim("n")},)  # any number of them
    example = torch.randn((2, 100))
    net = average_G.cpu()
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=rows), path)
    new_G = torch.export.load(path).module()  # it is in eval mode already
    new_data = new_G(torch.randn((10_000, 100)))  # from other noise
    common.say(data_to_num(new_data[:10]))
    path = run.folder / "new_data.png"
    draw("new data", new_data, path, *pattern)
    return run.finish(score(new_data, *pattern), ABOUT, path.name)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the nets are tiny: more would wait for each other
    main()
