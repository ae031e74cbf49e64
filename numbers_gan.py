"""A GAN that names numbers with a pattern: multiples of 5, odd numbers, ...

Mirrors document 4, 3.5, and exercise 3.4. At first G names any numbers. After a few
thousand epochs, of one step each, only those of the pattern are left: ten seconds.

    python numbers_gan.py                              # multiples of 5
    python numbers_gan.py --multiple 3                 # exercise 3.4
    python numbers_gan.py --multiple 2 --remainder 1   # odd numbers
    python numbers_gan.py --resume runs/numbers_gan/1/checkpoint.pt --epochs 20000
    python numbers_gan.py --generate runs/numbers_gan/1/checkpoint.pt --n 20
    python numbers_gan.py --document                   # the document's own recipe

Open training.gif: how often each number comes. The run ends with silent, the share of
vectors that are all zeros and name no number (usual: 0.01). Of the others, fit is the
share of right numbers, appear the share of possible ones that come up (best: 1 and 1);
rarest and commonest compare the extremes with a fair share. What next? --no-average.
"""

# 文档 4：第三章：生成对抗网络：形状和数量生成

import argparse
import copy

import torch
from torch import nn

import common
from curve_gan import EarlyStop  # the same class as in 3.3.3, says the document

# What --document brings back. rarest with only this brought back (seed 0; else 0.58).
DOCUMENT = {
    "beta1": 0.9,  # rarest 0.26: the other net has changed; old gradients mislead
    "average": False,  # rarest 0.12: G circles its goal; the average is nearer
    "watch": "remainder",  # the document's stop: see distance
    "patience": 800,
}  # fit, appear, rarest, worst of seeds 0 to 9: 0.994, 0.85, 0; by default 1, 1, 0.48
ABOUT = {"silent": "share of vectors that name no number"}
ABOUT["fit"] = "share of right numbers among the others; 1 is best"
ABOUT["appear"] = "share of the possible numbers that came up; 1 is best"
ABOUT["rarest"] = "frequency of the rarest of them; 1 is fair"
ABOUT["commonest"] = "frequency of the commonest; 1 is fair"


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
    indices = torch.randint(0, len(range(remainder, 100, multiple)), (n,))
    return indices * multiple + remainder


def gen_batch(multiple, remainder, n=10):
    return int_to_onehot(gen_sequence(multiple, remainder, n))  # (n, 100)


def data_to_num(data):
    """Vectors (n, 100) to numbers (n,), where each is largest; -1: it is all zeros."""
    num = torch.argmax(data, dim=-1)  # of all zeros it is 0 (in the document it counts)
    return torch.where(data.amax(dim=-1) > 0, num, -1)


def Discriminator():
    """Vectors (n, 100) to the probability of being real (n, 1)."""
    # Linear, D sees only the mean of fakes. So some may be zeros, if others are larger.
    return nn.Sequential(nn.Linear(100, 1), nn.Sigmoid())


def Generator():
    """Noise (n, 100) to vectors (n, 100), none of them negative."""
    return nn.Sequential(nn.Linear(100, 100), nn.ReLU())


# %% 3.5.3
def train_D_G(true_data, D, G, loss_fn, optimD, optimG):
    """Real vectors (n, 100) to fakes, D's loss, G's. The document only describes it."""
    real_labels = torch.ones((len(true_data), 1), device=true_data.device)
    fake_labels = torch.zeros_like(real_labels)
    optimD.zero_grad()
    real_loss = loss_fn(D(true_data), real_labels)
    real_loss.backward()
    optimD.step()

    optimD.zero_grad()
    generated_data = G(torch.randn_like(true_data)).detach()  # G learns nothing here
    fake_loss = loss_fn(D(generated_data), fake_labels)
    fake_loss.backward()
    optimD.step()

    optimG.zero_grad()
    generated_data = G(torch.randn_like(true_data))
    loss_G = loss_fn(D(generated_data), real_labels)
    loss_G.backward()  # D gets gradients, too; its next update clears them
    optimG.step()
    return generated_data.detach(), (real_loss + fake_loss).detach(), loss_G.detach()


# The trap of the document's gdif: ten lucky numbers make 0, which can never improve. So
# the stop comes 800 epochs later. And a G that only says 0 is perfect.
def distance(generated_data, multiple, remainder):
    """Listing 3.11: the mean square of what is left over, 0 if all numbers fit."""
    nums = data_to_num(generated_data)
    remainders = (nums - remainder) % multiple  # (n,)
    remainders[nums < 0] = multiple  # no number: worse than all others
    # (The document compares (10,) with zeros (10, 1): a warning, but the same mean.)
    return remainders.float().square().mean().item()


def variation(generated_data, multiple, remainder):
    """Our gdif: the share of vectors (n, 100) to change for a perfect result."""
    nums = data_to_num(generated_data).cpu()
    shares = nums[nums >= 0].bincount(minlength=100)[remainder::multiple] / len(nums)
    return (1 / len(shares) - shares).clamp(min=0).sum().item()  # what they lack


# %% The score, a picture, the options
def score(generated_data, multiple, remainder):
    """Judge vectors (n, 100), n in the thousands. See ABOUT."""
    nums = data_to_num(generated_data)
    said = nums[nums >= 0]
    shares = said.bincount(minlength=100)[remainder::multiple] / max(len(said), 1)
    score = {"silent": 1 - len(said) / len(nums), "fit": shares.sum().item()}
    score["appear"] = (shares > 0).float().mean().item()
    score["rarest"] = shares.min().item() * len(shares)
    return score | {"commonest": shares.max().item() * len(shares)}


@torch.no_grad()
def draw(title, generated_data, path, multiple, remainder):
    """Show how often each number comes in vectors (n, 100)."""
    nums, possible = data_to_num(generated_data).cpu(), range(remainder, 100, multiple)
    shares = nums[nums >= 0].bincount(minlength=100).numpy() / len(nums)
    axes = common.Figure(figsize=(8, 4), dpi=80, layout="constrained").subplots()
    axes.bar(range(100), shares, color="r", label="wrong")
    axes.bar(possible, shares[possible], color="g", label="right")  # over the red ones
    axes.axhline(1 / len(possible), color="grey", ls=":", label="fair share")
    axes.set(xlabel="number", ylabel="share", ylim=(0, 4 / len(possible)))
    axes.set_title(f"{title}: {(nums < 0).float().mean():.1%} name no number")
    axes.legend(loc="upper right")
    axes.figure.savefig(path)


def parse(argv):
    parser = common.make_parser("numbers_gan", __doc__, epochs=10_000, batch_size=10)
    add, number = parser.add_argument, common.number
    add("--multiple", type=number(int, 1, 100), default=5, help="of this")  # 练习 3.4
    add("--remainder", type=number(int, 0, 100), default=0, help="plus this")
    add("--lr", type=common.rate, default=0.0005, help="Adam's learning rate")
    add("--beta1", type=common.fraction, default=0.5, help="Adam's first beta")
    flag, watch = argparse.BooleanOptionalAction, ["variation", "remainder"]
    add("--average", action=flag, default=True, help="draw with the average of G")
    add("--watch", choices=watch, default=watch[0], help="variation: every 100 epochs")
    add("--patience", type=common.positive, default=60, help="looks with no progress")
    add("--n", type=common.positive, default=10, help="numbers for --generate")
    args = common.parse(parser, argv, DOCUMENT)
    if args.remainder >= args.multiple:
        parser.error(f"--remainder {args.remainder} must be below --multiple")
    return args


def generate(args):
    """--generate: print args.n numbers of a saved generator; draw their shares."""
    G = Generator()
    G.load_state_dict(args.checkpoint["parts"]["average_G"])
    new_data = G(torch.randn((args.n, 100)))
    path = common.new_folder(args) / "samples" / "generated.png"
    draw(f"{args.n} vectors", new_data, path, args.multiple, args.remainder)
    print(*("-" if x < 0 else x for x in data_to_num(new_data).tolist()))
    print(path)


# %% Listing 3.11
def main(argv=None):
    args = parse(argv)
    torch.manual_seed(args.seed)
    if args.generate:
        return generate(args)

    pattern = (args.multiple, args.remainder)
    print(onehot_encoder(1, 5), onehot_to_int(int_to_onehot(75)))  # see 3.5.1
    print(data_to_num(gen_batch(*pattern)))  # see 3.5.2
    D, G = Discriminator().to(args.device), Generator().to(args.device)
    average_G = copy.deepcopy(G)
    loss_fn = nn.BCELoss()  # D says 0.5 to all: 2 ln 2 for D, ln 2 for G
    adam = {"lr": args.lr, "betas": (args.beta1, 0.999), "fused": True}
    optimD = torch.optim.Adam(D.parameters(), **adam)
    optimG = torch.optim.Adam(G.parameters(), **adam)
    stopper = EarlyStop(args.patience)
    fixed_noise = torch.randn((4096, 100)).to(args.device)  # for the stop, and to draw

    parts = {"D": D, "G": G, "average_G": average_G, "stopper": stopper}
    with common.Run(args, **parts, optimD=optimD, optimG=optimG) as run:
        stopper.patience = args.patience  # --resume may have raised it
        for i in run.epochs(every=500):  # an epoch is one update, as in the document
            batch = gen_batch(*pattern, args.batch_size).to(args.device)
            for (real,) in run.minibatches(batch):  # all 10 of them, at once
                generated_data, *losses = train_D_G(real, D, G, loss_fn, optimD, optimG)
                run.log(loss_D=losses[0], loss_G=losses[1])  # (its gloss, dloss stay 0)
            common.update_average(average_G, G, run.step if args.average else 1)
            if args.watch == "remainder":
                stopper.stop(distance(generated_data, *pattern))
            elif i % 100 == 0:
                dis = variation(average_G(fixed_noise), *pattern)
                stopper.stop(dis)
                run.log(variation=dis)
            if stopper.steps >= stopper.patience:
                run.stop = f"no better for {stopper.steps} looks; raise --patience"
            if i % 50 == 1:
                print(data_to_num(generated_data))  # -1: no number
            if run.due or run.stop:
                draw(f"epoch {i}", average_G(fixed_noise), run.sample, *pattern)

        # 3.5.4. TorchScript is deprecated, so torch.export. It is in eval mode already.
        run.export(average_G, fixed_noise)
        with (run.folder / "generator.pt2").open("rb") as file:
            new_G = torch.export.load(file).module()
        new_data = new_G(torch.randn((10_000, 100)))  # from other noise
        print(data_to_num(new_data[:10]))
        draw("new data", new_data, run.folder / "new_data.png", *pattern)
        lines = {"loss_D": (1.386, "2 ln 2: D says 0.5"), "loss_G": (0.693, "ln 2")}
        return run.finish(score(new_data, *pattern), ABOUT, lines)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the nets are tiny: more would wait for each other
    main()
