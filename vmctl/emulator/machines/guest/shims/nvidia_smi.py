#!/usr/bin/python3 -IS
"""nvidia-smi of a simulated GPU: every output says that it is simulated."""

import sys

DRIVER = "580.00-simulated"


def fields(index: int, gpu: str, count: int) -> dict[str, tuple[str, str]]:
    """Field name -> (value, unit) of one GPU; `gpu` is `NAME;MEMORY_MIB`."""
    name, memory = gpu.split(";")
    return {
        "name": (f"{name} (simulated)", ""),
        "gpu_name": (f"{name} (simulated)", ""),
        "driver_version": (DRIVER, ""),
        "count": (str(count), ""),
        "index": (str(index), ""),
        "uuid": (f"GPU-simulated-{index}", ""),
        "gpu_uuid": (f"GPU-simulated-{index}", ""),
        "memory.total": (memory, "MiB"),
        "memory.used": ("0", "MiB"),
        "memory.free": (memory, "MiB"),
        "utilization.gpu": ("0", "%"),
        "utilization.memory": ("0", "%"),
        "temperature.gpu": ("[N/A]", ""),
        "power.draw": ("[N/A]", ""),
        "power.limit": ("[N/A]", ""),
        "pstate": ("[N/A]", ""),
        "compute_mode": ("Default", ""),
        "timestamp": ("[N/A]", ""),
    }


def query(gpus: list[str], wanted: list[str], options: list[str]) -> int:
    """`--query-gpu` in CSV, as nvidia-smi prints it; 2 for an unknown field."""
    rows = [fields(index, gpu, len(gpus)) for index, gpu in enumerate(gpus)]
    for name in wanted:
        if name not in rows[0]:
            print(f'Field "{name}" is not a valid field to query.\n')
            return 2
    units = "nounits" not in options
    if "noheader" not in options:
        heads = [f"{n} [{rows[0][n][1]}]" if rows[0][n][1] and units else n for n in wanted]
        print(", ".join(heads))
    for row in rows:
        values = [f"{row[n][0]} {row[n][1]}" if row[n][1] and units else row[n][0] for n in wanted]
        print(", ".join(values))
    return 0


def table(gpus: list[str], cuda: str) -> None:
    line = "+" + "-" * 70 + "+"
    print(line)
    print(f"| {'NVIDIA-SMI: SIMULATED by the vmctl emulator, there is no GPU here':<68} |")
    versions = f"Driver Version: {DRIVER}     CUDA Version: {cuda}"
    print(f"| {versions:<68} |")
    print(line)
    for index, gpu in enumerate(gpus):
        name, memory = gpu.split(";")
        print(f"| {f'{index}  {name} (simulated)':<46}{f'0MiB / {memory}MiB':>22} |")
    print(line)


def main(arguments: list[str]) -> int:
    # no imports: it is called often
    with open(f"{__file__}.gpus", encoding="utf-8") as file:  # noqa: PTH123
        cuda, *gpus = file.read().splitlines()
    if not gpus:
        print("No devices were found")
        return 6
    wanted: list[str] = []
    options: list[str] = []
    pending = ""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if pending:
            key, value, pending = pending, argument, ""
        elif key in ("--query-gpu", "--format", "-i", "--id") and not equals:
            pending = key
            continue
        if key == "--query-gpu":
            wanted = value.split(",")
        elif key == "--format":
            options = value.split(",")
        elif key in ("-i", "--id"):
            if not value.isdigit() or int(value) >= len(gpus):
                print("No devices were found")
                return 6
            gpus = [gpus[int(value)]]
        elif key in ("-L", "--list-gpus"):
            for index, gpu in enumerate(gpus):
                print(f"GPU {index}: {gpu.split(';')[0]} (simulated) (UUID: GPU-simulated-{index})")
            return 0
        elif key in ("-h", "--help"):
            print("nvidia-smi of a simulated machine: --query-gpu=FIELDS --format=csv, -L, -i")
            return 0
        else:
            print(f"Invalid combination of input arguments: {argument} (simulated nvidia-smi)")
            return 2
    if wanted:
        if "csv" not in options:
            print('"--format=" switch is missing. Please run nvidia-smi -h for help.')
            return 2
        return query(gpus, [name.strip() for name in wanted], [o.strip() for o in options])
    table(gpus, cuda)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
