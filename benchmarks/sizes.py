"""Prints parameters and megabytes of the networks at every ρ of the paper's tables.

    python benchmarks/sizes.py

The paper's sizes (Tseng et al., IJCAI 2018, Tables 3 and 4) are known to us at ρ = 1 only; our sizes are of float32
parameters: α, plain layers and BatchNorm, in MB (10^6 bytes) and MiB (2^20).
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dbf_keras import networks

_CIFAR = {"input_shape": (32, 32, 3)}
_MNIST = {"input_shape": (28, 28, 1)}
_IMAGENET = {"input_shape": (224, 224, 3), "classes": 1000}
_RESNET_RATIOS = (1, 0.75, 0.5, 0.35, 0.25)
_DBFNET_RATIOS = (1, 0.7, 0.5, 0.25)
# Network, its options, the ratios of the paper's table, and the paper's size at ρ = 1 and the unit that we read it in.
_ROWS = (
    ("ResNet-18, CIFAR", "resnet18", _CIFAR, _RESNET_RATIOS, "1.37 MB"),
    ("ResNet-34, CIFAR", "resnet34", _CIFAR, _RESNET_RATIOS, "3.39 MB"),
    ("SqueezeNet, CIFAR", "squeezenet", _CIFAR, _RESNET_RATIOS, "4.41 MiB"),
    ("DBFNet, MNIST", "dbfnet", _MNIST, _DBFNET_RATIOS, "10.32 MiB"),
    ("DBFNet, CIFAR", "dbfnet", _CIFAR, _DBFNET_RATIOS, "10.32 MiB"),
    ("ResNet-18, ImageNet", "resnet18", _IMAGENET, _RESNET_RATIOS, None),
    ("ResNet-34, ImageNet", "resnet34", _IMAGENET, _RESNET_RATIOS, None),
    ("SqueezeNet, ImageNet", "squeezenet", _IMAGENET, _RESNET_RATIOS, None),
    ("DBFNet, ImageNet", "dbfnet", _IMAGENET, _DBFNET_RATIOS, None),
    ("DBFNetMicro, digits", "dbfnet_micro", {}, _DBFNET_RATIOS, None),
)


def main() -> None:
    """Prints the table."""
    table = Table(title="Sizes, float32 parameters")
    for heading in ("network", "ρ", "4×4: parameters", "MB", "MiB", "3×3: parameters", "MB", "MiB", "paper, ρ = 1"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for label, name, options, ratios, paper in _ROWS:
        for ratio in ratios:
            cells = []
            for kernel_size in (4, 3):
                count = networks.build(name, ratio=ratio, kernel_size=kernel_size, **options).count_params()
                cells += [f"{count:,}", f"{count * 4 / 1e6:.2f}", f"{count * 4 / 2**20:.2f}"]
            first = ratio == ratios[0]
            table.add_row(label if first else "", f"{ratio}", *cells, (paper or "–") if first else "")
        table.add_section()
    Console(width=120).print(table)
    print(
        "Widths that the paper does not state are our reading: ResNet stages of 16, 32, 64 channels with (3, 3, 2)\n"
        "and (5, 6, 5) blocks; DBFNet cascades of 3, 2, 3 modules with 32, 64, 128 channels (ImageNet: 64, 128, 256);\n"
        "SqueezeNet 1.0 with BatchNorm, its expand filters 4×4 or 3×3. We know one size for DBFNet."
    )


if __name__ == "__main__":
    main()
