"""A ladder made up by hand: eight methods and one compared with, which does not fit at 64,000."""

from milbench.runs.scaling.table import Cells, tidy

#: method -> (exponent of time, seconds an instance, bytes an instance)
COSTS = {
    "abmil": (1.0, 3e-8, 1024), "clam_mb": (1.0, 1.2e-7, 4096), "clam_sb": (1.0, 1.15e-7, 4096),
    "dsmil": (1.0, 4e-8, 1500), "max": (1.0, 9e-9, 4), "max_instance": (1.0, 8e-9, 8), "mean": (1.0, 7e-9, 0),
    "transmil": (1.02, 7e-7, 9000), "their_pkg.pool:Theirs": (1.15, 1.6e-6, 40_000),
}  # fmt: skip


#: of the machine; methods take twice as long as their operations at this rate, or more.
FLOPS_PER_S = 2e11


def ladder(lengths=(1_000, 4_000, 16_000, 64_000)):
    cells = []
    for n in lengths:
        for mode, times in (("infer", 1), ("train", 3)):
            for method, (power, seconds, size) in COSTS.items():
                if "Theirs" in method and n >= 64_000:
                    cells.append(Cells(method, mode, n, "oom", "time: not enough memory"))
                    continue
                middle = times * seconds * n**power
                memory = {
                    "peak_bytes": size * n * times, "reserved_bytes": None, "process_bytes": None, "parameters": 9,
                    "flops": int(FLOPS_PER_S / 2 * seconds * n * times),
                    "flops_mandatory": int(FLOPS_PER_S / 2 * seconds * n) * (1 if mode == "infer" else 2),
                    "bytes_mandatory": 4 * n,
                }  # fmt: skip
                rounds = [(middle, 1.02 * middle), (0.99 * middle, 1.05 * middle)]
                cells.append(Cells(method, mode, n, "ok", "", rounds, [(0.01,), (0.011,)], [2 * 1024**3] * 2, memory))
    return tidy(
        cells, dtype="fp32", device="a-cpu-2threads", in_dim=1024, flops_per_s=FLOPS_PER_S, read_bytes_per_s=3e10,
        against={"transmil": "their_pkg.pool:Theirs"},
    )  # fmt: skip
