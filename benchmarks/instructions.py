"""Instructions per multiply-add of the native op: the same on every machine, also for processors that are not here.

    python benchmarks/instructions.py                  # the inner loops, of every instruction set
    python benchmarks/instructions.py --layers         # and whole layers, of those that can be counted

The inner loop of a gemm is counted in the disassembly of the compiled kernel: its instructions, and the
multiply-adds of those that multiply. Whole layers, with all that is not a gemm, are counted as they run: AVX2 under
valgrind (which has no AVX-512), ARM under QEMU (which logs each instruction: small layers only). What is counted are
instructions, not cycles. Needs a C compiler and objdump; for ARM gcc-aarch64-linux-gnu, and for `--layers`
qemu-user-static and valgrind. What is missing is left out.
"""

import json
import pathlib
import re
import shutil
import subprocess
import tempfile

from absl import app, flags
from rich import console, table

_EXPORT = pathlib.Path(__file__).parents[1] / "export"
_FLAGS = ["-std=gnu11", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-ffp-contract=fast", f"-I{_EXPORT}"]
_X86, _ARM = "x86_64-linux-gnu-", "aarch64-linux-gnu-"  # prefixes of the compilers
_KERNELS = {"avx512vnni": _X86, "avx512": _X86, "avx2": _X86, "neondot": _ARM, "neon": _ARM}
_TILES = {"float32": re.compile(r"Tile(\d+)x2"), "int8": re.compile(r"TileInt8(\d+)x2")}
_REGISTER_BYTES = {"x": 16, "y": 32, "z": 64}
_X86_MACS_PER_BYTE = {"vfmadd": 1 / 4, "vpdpbusd": 1, "vpmaddwd": 1 / 2, "vpdpwssd": 1 / 2}
_ARM_MACS = {"fmla": 4, "sdot": 16, "smlal": 4, "smlal2": 4}
_LAYERS = ["float32 ovsf 3 64 64 8 4", "float32 random 3 64 64 8 4", "int8 ovsf 3 64 64 8 4", "int8 random 3 64 64 8 4"]
_ISAS = {"avx2": _X86, "neondot": _ARM, "neon": _ARM}

FLAGS = flags.FLAGS
flags.DEFINE_bool("layers", False, "Count whole layers as well.")
flags.DEFINE_string("json", None, "File to write the results to as JSON.")


def disassemble(kernel: str, folder: pathlib.Path) -> dict[str, list[tuple[int, str, str]]]:
    """Compiles a kernel and returns the functions of it: address, mnemonic and operands of each instruction."""
    prefix, output = _KERNELS[kernel], folder / f"{kernel}.o"
    source = {"neondot": "neon_dot"}.get(kernel, kernel)
    subprocess.run(
        [f"{prefix}gcc", *_FLAGS, "-c", _EXPORT / f"kernels/kernel_{source}.c", "-o", output],
        check=True,
    )
    listing = subprocess.run(
        [f"{prefix}objdump", "-d", "--no-show-raw-insn", output], check=True, capture_output=True, text=True
    ).stdout
    functions, body = {}, []
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.+)>:", line):
            functions[start[1]] = body = []
        elif instruction := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            body.append((int(instruction[1], 16), instruction[2], instruction[3]))
    return functions


def multiply_adds(mnemonic: str, operands: str) -> int:
    """Returns the multiply-adds of one instruction."""
    if mnemonic in _ARM_MACS:
        return _ARM_MACS[mnemonic]
    for name, per_byte in _X86_MACS_PER_BYTE.items():
        if mnemonic.startswith(name):
            return int(_REGISTER_BYTES[re.findall(r"%([xyz])mm", operands)[-1]] * per_byte)
    return 0


def inner_loop(body: list[tuple[int, str, str]]) -> tuple[int, int]:
    """Returns the instructions and the multiply-adds of the loop that multiplies most, and holds no other."""
    index = {address: i for i, (address, _, _) in enumerate(body)}
    loops = []
    for i, (address, mnemonic, operands) in enumerate(body):
        target = re.search(r"(?:^|\s)([0-9a-f]+) <", operands)
        if mnemonic.startswith(("j", "b.", "cb", "tb")) and target and int(target[1], 16) <= address:
            loops.append((index[int(target[1], 16)], i))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    counts = [(sum(multiply_adds(m, o) for _, m, o in body[i : j + 1]), j + 1 - i) for i, j in innermost]
    macs, instructions = max(counts)
    return instructions, macs


def count_loops(folder: pathlib.Path) -> list[dict]:
    """Counts the inner loop of the largest tile of every kernel and type."""
    results = []
    for kernel, prefix in _KERNELS.items():
        if shutil.which(f"{prefix}gcc") is None:
            continue
        functions = disassemble(kernel, folder)
        for type_, pattern in _TILES.items():
            tiles = {int(match[1]): name for name in functions if (match := pattern.fullmatch(name))}
            instructions, macs = inner_loop(functions[tiles[max(tiles)]])
            results.append(
                dict(isa=kernel, type=type_, pixels=str(max(tiles)), instructions=instructions, multiply_adds=macs)
            )
    return results


def run_counted(binary: pathlib.Path, isa: str, layer: str, times: int, folder: pathlib.Path) -> tuple[int, int]:
    """Runs a layer some times. Returns all instructions, and the multiply-adds of one time."""
    arguments = [isa, *layer.split(), str(times)]
    if _ISAS[isa] == _X86:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind", binary, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return int(re.search(r"Collected : (\d+)", done.stderr)[1]), int(done.stdout)
    emulator = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu", "-singlestep", "-d", "exec,nochain"]
    with subprocess.Popen([*emulator, binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        count = sum(chunk.count(b"\nTrace ") for chunk in _chunks(process.stderr))
        return count, int(process.stdout.read())


def _chunks(stream):
    """The stream in pieces that end with a line, each after a line's end."""
    rest = b"\n"
    while data := stream.read(1 << 20):
        head, end, tail = (rest + data).rpartition(b"\n")
        yield head
        rest = end + tail
    yield rest


def count_layers(folder: pathlib.Path) -> list[dict]:
    """Counts whole layers: twice less once, so that starting does not count."""
    results = []
    for isa, prefix in _ISAS.items():
        tools = [f"{prefix}gcc", "valgrind" if prefix == _X86 else "qemu-aarch64-static"]
        if any(shutil.which(tool) is None for tool in tools):
            continue
        binary = folder / f"instructions{prefix}"
        if not binary.exists():
            sources = [path for path in _EXPORT.glob("*/*.c") if path.parent.name != "tests"]
            sources.append(_EXPORT / "tests/testing.c")
            command = [tools[0], *_FLAGS, pathlib.Path(__file__).with_suffix(".c"), *sources]
            subprocess.run([*command, "-lm", "-o", binary], check=True)
        for layer in _LAYERS:
            (once, macs), (twice, _) = (run_counted(binary, isa, layer, times, folder) for times in (1, 2))
            results.append(dict(isa=isa, layer=layer, instructions=twice - once, multiply_adds=macs))
    return results


def print_counts(title: str, columns: list[str], rows: list[dict]) -> None:
    """Prints a table."""
    shown = table.Table(title=title)
    for name in [*columns, "instructions", "multiply-adds", "ratio"]:
        shown.add_column(name, justify="left" if name in columns else "right")
    for row in rows:
        rate = row["multiply_adds"] / row["instructions"]
        shown.add_row(
            *(row[name] for name in columns), str(row["instructions"]), str(row["multiply_adds"]), f"{rate:.2f}"
        )
    console.Console().print(shown)


def main(_) -> None:
    """Runs the command line."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        loops = count_loops(folder)
        print_counts("Inner loops", ["isa", "type", "pixels"], loops)
        layers = count_layers(folder) if FLAGS.layers else []
        if layers:
            print_counts("Layers: type, set, kernel, channels, filters, size, 1 / ratio", ["isa", "layer"], layers)
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps({"loops": loops, "layers": layers}, indent=1))


if __name__ == "__main__":
    app.run(main)
