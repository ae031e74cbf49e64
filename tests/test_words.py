"""What a script says: its --help, and the names of its document's sections."""

import re

import pytest

import mnist_gan

# Sections, exercises and listings of the document that a script has to name.
NAMED = {
    "linear_gan": [
        "文档 1",
        "2 - Create the data",
        "3 - Define the models",
        "4 - Define the function for discriminator updates",
        "5 - Perform generator updates",
        "6 - Initialize the parameters",
        "7 - Compute the losses",
        "8 - Display generated distributions",
        "9 - Display the losses",
        "10 - Create the training function",
        "11 - Train the model",
    ],
    "curve_gan": [
        "文档 4",
        "3.2.1",
        "3.2.2",
        "3.3.1",
        "3.3.2",
        "3.3.3",
        "3.4.1",
        "3.4.2",
        "Listing 3.1:",
        "Listing 3.2:",
        "Listing 3.3:",
        "Listing 3.4:",
        "Listing 3.5:",
        "Listing 3.6:",
        "Listing 3.7:",
        "Listing 3.8:",
        "Listing 3.9:",
        "listing 3.10",
        "练习 3.1, 3.2, 3.3",
    ],
    "numbers_gan": [
        "文档 4",
        "3.5.1",
        "3.5.2",
        "3.5.3",
        "3.5.4",
        "Listing 3.11",
        "练习 3.4",
    ],
    "mnist_gan": [
        "文档 2",
        "GAN的训练",
        "GAN的损失函数",
        "实现生成器代码",
        "实现判别器代码",
        "实现train_discriminator和train_generator",
        "优化器",
        "二元交叉熵损失",
        "定义主函数",
        "执行main()函数",
        "思考题 1",
        "思考题 2",
        "思考题 3",
    ],
    "mnist_bn_gan": [
        "文档 3",
        "定义生成器和判别器模型",
        "训练过程",
        "为什么先训练判别器",
    ],
    "mnist_cgan": [
        "文档 3",
        "代码示例",
        "定义生成器模型",
        "定义判别器模型",
        "训练顺序",
    ],
    "aae_mnist": [
        "文档 5",
        "实现一个简单的GAN",
    ],
}


def test_sections_are_named(script, source):
    for name in NAMED[script.__name__]:
        assert name in source


def test_all_to_dos_are_done():
    with open(mnist_gan.__file__, encoding="utf-8") as file:
        numbers = re.findall(r"# [Tt]o-do (\d+)", file.read())
    numbers = sorted(int(number) for number in numbers)
    assert numbers == list(range(1, 19))


def test_help(script, capsys):
    """It is plain ASCII, shows the docstring as it is written, and every default."""
    with pytest.raises(SystemExit) as stop:
        script.main("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert script.__doc__.strip() in text
    assert "(default: " in text
    assert "default: ==SUPPRESS==" not in text
    assert f"usage: {script.__name__}.py [options]" in text


def test_docstring(script):
    lines = script.__doc__.splitlines()
    assert len(lines) <= 20
    for line in lines:
        assert len(line) <= 78


def test_each_score_is_explained(script, whole_run):
    for name in whole_run.score:
        assert name in script.ABOUT
        assert f"\n{name}: " in whole_run.output
    assert "see the script" not in whole_run.output
