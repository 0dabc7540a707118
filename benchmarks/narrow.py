"""Widths of plain networks that have the bytes, or the multiply-adds, of DBF ones: the controls of a study.

python benchmarks/narrow.py                                        # of the study of selections
python benchmarks/narrow.py --network=resnet18 --option= --ratio=0.25
"""

import numpy as np
from absl import flags

from dbf_keras import command, networks
from dbf_keras.networks.cost import multiply_adds
from dbf_keras.train import settings

_FLAGS = flags.FLAGS
flags.DEFINE_multi_float("ratio", [0.5, 0.25, 0.125], "ρ of the DBF networks.")
flags.DEFINE_multi_integer("kernel_size", [3, 4], "Kernel size of both.")
flags.DEFINE_string("network", "resnet8", "Network.")
flags.DEFINE_list("option", ["stem_strides=2"], "Options of the network, NAME=VALUE.")


def main(_: list[str]) -> None:
    """Prints, for each kernel size and ρ, the nearest widths, and how near they are."""
    for kernel_size in _FLAGS.kernel_size:
        common = {"kernel_size": kernel_size, **settings.parse_options(_FLAGS.option)}
        widths = np.arange(0.2, 1.001, 0.005).round(3)
        plain = [_costs(plain=True, width=float(width), **common) for width in widths]
        for ratio in _FLAGS.ratio:
            target = _costs(ratio=ratio, **common)
            for index, name in enumerate(("bytes", "multiply-adds")):
                best = min(range(len(widths)), key=lambda i: abs(plain[i][index] - target[index]))
                print(
                    f"{kernel_size}×{kernel_size}, ρ = {ratio}: {name} {target[index]:,}, plain of width "
                    f"{widths[best]}: {plain[best][index]:,}"
                )


def _costs(**options) -> tuple[int, int]:
    model = networks.build(_FLAGS.network, **options)
    return model.count_params(), multiply_adds(model)


if __name__ == "__main__":
    command.run(main)
