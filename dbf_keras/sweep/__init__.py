"""``dbf sweep runs.yaml --output_dir runs``: trains a list of runs, makes one table and plot of them.

The file holds ``defaults`` and ``runs``. A run sets attributes of `dbf_keras.train.Settings`; any other key is an
option of the network. Values in a ``grid`` are lists, of which each combination is a run, the last axis fastest::

    defaults: {dataset: cifar10, network: resnet8, epochs: 30}
    runs:
      - name: plain
        plain: true
        grid: {seed: [0, 1, 2]}
      - name: dbf
        grid: {ratio: [0.5, 0.25], seed: [0, 1, 2]}
    plot: {x: parameters, panels: kernel_size, highlight: [dbf, plain]}   # optional, see `plot`

Runs are called after ``name`` and the grid's values, as in ``dbf-ratio=0.5-seed=0``, and done in the order of the list.
In a text ``{output_dir}`` is the folder of the results, and ``{seed}`` and the like the grid's values, so that a run
can take another's file as its teacher.

The same command may run several times at once, on one machine or on more that share the folder: each process takes runs
that no other is at, and all end with the whole table.
"""

from dbf_keras.sweep.execution import execute, sweep
from dbf_keras.sweep.plots import plot
from dbf_keras.sweep.results import Group, join_seeds, table, write_table
from dbf_keras.sweep.runs import Run, read

__all__ = ["Group", "Run", "execute", "join_seeds", "plot", "read", "sweep", "table", "write_table"]
