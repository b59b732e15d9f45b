"""Time losses, metrics and prediction on this machine: python -m experiments.bench losses

Every row is one call on arrays that are in memory: for a loss, its mean over the batch and the
gradient in the logits, from integer labels, so that libraries which want them one-hot make them so
within the call; for inference, a volume predicted by a sliding window, from and to the memory of
the host. Rows take turns, so that other work on the machine falls on all alike, and a turn is a
call that does not count, which finds its memory and at first compiles, then one that does. Each
subcommand is a row of `COMMANDS`.

The memory of inference is measured in a process of its own for each row: how far its resident
memory (VmHWM of Linux) rises in the first call above what libraries, weights and volume took
before. What the compiler needs is in it, what an accelerator holds is not.
"""

import argparse
import concurrent.futures
import datetime
import functools
import math
import multiprocessing
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from dicepp_jax import sweep, train
from dicepp_jax.data.preprocess import window_starts
from dicepp_jax.inference import sliding_window
from dicepp_jax.losses import LOSSES
from dicepp_jax.metrics.thresholds import THRESHOLDS, threshold_counts
from dicepp_jax.models.unet import INSTANCE_NORM_EPSILON, UNet
from dicepp_jax.rows import write_csv
from dicepp_jax.schedule import Settings
from dicepp_jax.train import ApplyFn
from experiments import table

NOT_INSTALLED = "not installed: pip install -e '.[bench]'"

Shape = tuple[int, ...]


class Timing(NamedTuple):
    """One row of a table of times.

    Attributes:
      shape: of the logits, `(B, *spatial, C)`.
      name: what was timed.
      repeats: number of calls.
      median_ms: of the calls, NaN if there were none.
      minimum_ms: of the calls, NaN if there were none.
      ratio: of the median to that of the reference.
      reference: name of the row that ratios refer to.
      windows_per_s: at the median, NaN for what has no windows.
      peak_mib: memory of a call, NaN for what has no windows and where it cannot be measured.
      note: what else there is to know.
      hardware: processor and cores, or accelerator.
      jax: version.
      date: day of the run.
    """

    shape: str
    name: str
    repeats: int
    median_ms: float
    minimum_ms: float
    ratio: float
    reference: str
    windows_per_s: float
    peak_mib: float
    note: str
    hardware: str
    jax: str
    date: str


class Case(NamedTuple):
    """Something to time.

    Attributes:
      call: returns when the work is done; None where it cannot be timed, which the note explains.
      note: what else there is to know.
      windows: that a call predicts.
    """

    call: Callable[[], object] | None
    note: str = ""
    windows: int = 0


Cases = Callable[[Shape], dict[str, Case]]
"""What to time at a shape of logits, by name."""


class Flag(NamedTuple):
    """A flag of one subcommand.

    Attributes:
      parse: from its text.
      default: its value if it is not given.
      help: one line.
    """

    parse: Callable[[str], Any]
    default: Any
    help: str


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      cases: what it times at a shape of logits, by name; takes its own flags by keyword.
      reference: name of the one that ratios refer to.
      help: one line.
      flags: its own, by name.
      shapes: that are timed if none are given.
      repeats: likewise.
    """

    cases: Callable[..., dict[str, Case]]
    reference: str
    help: str
    flags: Mapping[str, Flag] = {}
    shapes: tuple[Shape, ...] = ((8, 512, 512, 2), (1, 80, 160, 160, 3))
    repeats: int = 15


def _jitted(function: Callable[..., object], *args: jax.Array) -> Case:
    compiled = jax.jit(function)
    return Case(lambda: jax.block_until_ready(compiled(*args)))


def _example(shape: Shape) -> tuple[jax.Array, jax.Array]:
    """Random logits `(B, *spatial, C)` and integer labels."""
    keys = jax.random.split(jax.random.key(0))
    labels = jax.random.randint(keys[1], shape[:-1], 0, shape[-1])
    return jax.random.normal(keys[0], shape), labels


def _mean_and_gradient(loss: Callable[..., jax.Array]) -> Callable[..., object]:
    return jax.value_and_grad(lambda logits, labels: loss(logits, labels).mean())


def _optax_dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.losses.dice_loss(logits, one_hot, apply_softmax=True)


def loss_cases(shape: Shape) -> dict[str, Case]:
    """Every loss, those of other libraries, and what moving the arrays alone takes."""
    logits, labels = _example(shape)
    moved = _jitted(lambda x, y: x + y[..., None], logits, labels)
    return {
        "read_write": moved._replace(note="logits and labels read, an array like logits written"),
        "optax_dice": _jitted(_mean_and_gradient(_optax_dice), logits, labels),
        **{
            name: _jitted(_mean_and_gradient(loss.function), logits, labels)
            for name, loss in LOSSES.items()
        },
        **_monai_cases(np.asarray(logits), np.asarray(labels)),
    }


def _monai_cases(logits: np.ndarray, labels: np.ndarray) -> dict[str, Case]:
    """MONAI's losses as they are mostly used: forward and backward, not compiled."""
    try:
        import torch
        from monai.losses import DiceFocalLoss, DiceLoss
    except ImportError:
        return {name: Case(None, NOT_INSTALLED) for name in ("monai_dice", "monai_dice_focal")}
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    channels_first = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    x = torch.tensor(channels_first, device=device, requires_grad=True)
    y = torch.tensor(labels[:, None], device=device, dtype=torch.int64)

    def case(kind: type) -> Case:
        loss = kind(softmax=True, to_onehot_y=True)

        def call() -> None:
            torch.autograd.grad(loss(x, y), x)
            if on_gpu:
                torch.cuda.synchronize()

        return Case(call, f"eager, torch {torch.__version__} on {device}")

    return {"monai_dice": case(DiceLoss), "monai_dice_focal": case(DiceFocalLoss)}


def threshold_cases(shape: Shape) -> dict[str, Case]:
    """Confusions at one threshold and at those of the paper's curves."""
    logits, labels = _example(shape)
    probs = jax.nn.softmax(logits)
    return {
        f"thresholds_{len(thresholds)}": _jitted(
            threshold_counts, probs, labels, jnp.asarray(thresholds, jnp.float32)
        )
        for thresholds in (np.array([0.5]), THRESHOLDS)
    }


def inference_cases(shape: Shape, window: Shape, filters: int, batch_size: int) -> dict[str, Case]:
    """A volume by windows that overlap by half, with the U-Net of the paper's depth."""
    batch, *spatial, num_classes = shape
    if batch != 1 or len(window) != len(spatial):
        raise ValueError(
            f"--shapes {_text(shape)}, --window {_text(window)}: expected a batch of 1, and a "
            f"window of as many sides as the volume, such as {'x'.join(['32'] * len(spatial))}"
        )
    halved = 2**UNet.depth
    # Of a single voxel in the deepest block torch takes no instance norm.
    if any(n % halved for n in window) or max(window) == halved:
        raise ValueError(
            f"--window {_text(window)}: sides must be multiples of {halved}, and one {2 * halved} "
            "or more"
        )
    volume = np.random.default_rng(0).normal(size=(*spatial, 1)).astype(np.float32)
    overlap = tuple(n // 2 for n in window)
    windows = math.prod(
        len(window_starts(*axis)) for axis in zip(spatial, window, overlap, strict=True)
    )
    model = UNet(num_classes=num_classes, filters=filters)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *window, 1)))
    # Drawing them would run the network, whose memory is to be measured later.
    params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes)
    apply = cast(ApplyFn, model.apply)
    softmax = jax.jit(lambda params, images: jax.nn.softmax(apply(params, images)))
    forward = functools.partial(softmax, params)
    ours = Case(
        lambda: sliding_window(
            forward, volume, window, overlap, num_classes, batch_size=batch_size
        ),
        f"{sum(x.size for x in jax.tree.leaves(params)):,} parameters",
        windows,
    )
    theirs = _monai_windows(volume, window, num_classes, filters, batch_size)
    return {"sliding_window": ours, "monai_sliding_window": theirs._replace(windows=windows)}


def _monai_windows(
    volume: np.ndarray, window: Shape, num_classes: int, filters: int, batch_size: int
) -> Case:
    """MONAI's sliding window, whose windows lie as ours; not compiled."""
    try:
        import torch
        from monai.inferers import sliding_window_inference
    except ImportError:
        return Case(None, NOT_INSTALLED)
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    network = _torch_unet(volume.ndim - 1, filters, num_classes).to(device).eval()
    x = torch.from_numpy(np.moveaxis(volume, -1, 0)[None].copy())

    def call() -> None:
        with torch.inference_mode():
            sliding_window_inference(
                x,
                window,
                batch_size,
                lambda images: network(images).softmax(1),
                overlap=0.5,
                sw_device=device,
                device="cpu",
            )

    parameters = sum(p.numel() for p in network.parameters())
    return Case(call, f"{parameters:,} parameters, eager, torch {torch.__version__} on {device}")


def sweep_cases(shape: Shape, members: Sequence[int], filters: int) -> dict[str, Case]:
    """A training step of grids over gamma by every strategy, and of DSC++ trained alone."""
    num_classes, size = shape[-1], shape[1:-1]
    model = UNet(num_classes=num_classes, filters=filters)
    image = np.random.default_rng(0).normal(size=(*shape[:-1], 1)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, num_classes, shape[:-1]).astype(np.int32)
    # It runs once, so the compiler may leave out what makes it fast.
    init = jax.jit(
        lambda key: train.init_state(model, key, (1, *size, 1)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    state, key = init(jax.random.key(0)), jax.random.key(1)
    apply = cast(ApplyFn, model.apply)
    step = train.make_train_step(apply, LOSSES["dscpp"].function, None)
    alone = _stepped(step, state, {"image": image, "label": label}, key)
    programs = sweep.make_programs(apply, LOSSES["dscpp"].function, None)
    cases = {"alone": alone}
    devices = jax.local_device_count()
    for count in members:
        grid = [sweep.Member({"gamma": 1 + n / 2}, Settings(), key) for n in range(count)]
        ways = {"sequential": sweep.Strategy(1), "vmap": sweep.Strategy(count)}
        if devices > 1:
            ways["devices"] = sweep.Strategy(-(-count // devices), min(count, devices))
        for name, strategy in ways.items():
            if count > 1 or name == "sequential":
                stepper = sweep.Stepper(programs, grid, state, image[None], label[None], strategy)
                cases[f"{name}_{count}"] = Case(
                    stepper.step, f"compiled in {stepper.seconds:.1f} s"
                )
    return cases


def _stepped(
    step: train.JittedStep, state: train.TrainState, batch: Mapping[str, Any], key: jax.Array
) -> Case:
    start = time.perf_counter()
    step.compile(state, dict(batch), key)
    seconds = time.perf_counter() - start
    kept = [jax.tree.map(jnp.copy, state)]

    def call() -> None:
        kept[0], loss = step(kept[0], dict(batch), key, 0.1)
        jax.block_until_ready((kept[0], loss))

    return Case(call, f"compiled in {seconds:.1f} s")


def _torch_unet(ndim: int, filters: int, num_classes: int) -> Any:
    """The layers of `UNet` in torch, for images of one channel."""
    import torch
    from torch import nn

    convolution, transposed, pool, norm = (
        getattr(nn, f"{kind}{ndim}d")
        for kind in ("Conv", "ConvTranspose", "MaxPool", "InstanceNorm")
    )

    def block(before: int, after: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in (before, after):
            layers += [convolution(width, after, 3, padding=1), nn.ReLU()]
            layers += [norm(after, eps=INSTANCE_NORM_EPSILON, affine=True)]
        return nn.Sequential(*layers)

    class TorchUNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            *widths, deepest = (filters * 2**level for level in range(UNet.depth + 1))
            self.down = nn.ModuleList(map(block, (1, *widths[:-1]), widths))
            self.bottom = block(widths[-1], deepest)
            self.up = nn.ModuleList(transposed(2 * n, n, 2, stride=2) for n in widths[::-1])
            self.joined = nn.ModuleList(block(2 * n, n) for n in widths[::-1])
            self.halve = pool(2)
            self.logits = convolution(filters, num_classes, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skips = []
            for block in self.down:
                x = block(x)
                skips.append(x)
                x = self.halve(x)
            x = self.bottom(x)
            for up, block in zip(self.up, self.joined, strict=True):
                x = block(torch.cat([up(x), skips.pop()], 1))
            return self.logits(x)

    return TorchUNet()


def peak_memory(cases: Cases, shape: Shape, name: str) -> float:
    """MiB by which the first call of a case raises the memory of a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        return pool.submit(_peak, cases, shape, name).result()


def _peak(cases: Cases, shape: Shape, name: str) -> float:
    call = cases(shape)[name].call
    assert call is not None
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """MiB, now (VmRSS) or at most so far (VmHWM).

    Not ru_maxrss of getrusage, in which a process begins with what the one that started it had.
    """
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else math.nan


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape(text: str) -> Shape:
    return _sides(text, 3, "8x512x512x2 (batch, space, classes)")


def _window(text: str) -> Shape:
    return _sides(text, 2, "16x32x32 (space)")


def _sides(text: str, least: int, example: str) -> Shape:
    if not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{least - 1},}}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like {example}")
    return tuple(map(int, text.split("x")))


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.split(","))


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


COMMANDS: dict[str, Command] = {
    "losses": Command(loss_cases, "optax_dice", "value and gradient of every loss"),
    "thresholds": Command(threshold_cases, "thresholds_1", "threshold_counts, 1 and 91 thresholds"),
    "inference": Command(
        inference_cases,
        "sliding_window",
        "sliding windows over a volume: windows per second and memory",
        {
            "window": Flag(_window, (16, 32, 32), "its sides"),
            "filters": Flag(_count, 8, "of the U-Net at full resolution"),
            "batch_size": Flag(_count, 1, "windows at a time"),
        },
        ((1, 32, 64, 64, 3),),
        3,
    ),
    "sweep": Command(
        sweep_cases,
        "alone",
        "a training step of a grid, by every strategy",
        {
            "members": Flag(_counts, (1, 2, 5, 10), "numbers of members, as 1,2,5,10"),
            "filters": Flag(_count, 8, "of the U-Net at full resolution"),
        },
        ((1, 96, 96, 2),),
        5,
    ),
}


def measure(cases: dict[str, Case], repeats: int) -> dict[str, np.ndarray]:
    """Milliseconds `(repeats,)` of those cases that can be timed."""
    calls = {name: case.call for name, case in cases.items() if case.call is not None}
    milliseconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in tqdm(range(repeats), "rounds", leave=False, disable=None):
        for name, call in calls.items():
            call()
            start = time.perf_counter()
            call()
            milliseconds[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(times) for name, times in milliseconds.items()}


def bench(
    command: Command, shapes: Sequence[Shape], only: Sequence[str], repeats: int
) -> list[Timing]:
    """Time a command's cases.

    Args:
      command: from `COMMANDS`.
      shapes: of logits, `(B, *spatial, C)`.
      only: names of the cases to time beside the reference; all if there are none.
      repeats: calls of each.

    Returns:
      A row for every shape and case.

    Raises:
      ValueError: if there is no case of a name.
    """
    about = hardware(), jax.__version__, datetime.date.today().isoformat()
    rows = []
    for shape in shapes:
        cases = command.cases(shape)
        unknown = sorted(set(only) - set(cases))
        if unknown:
            raise ValueError(f"--only: there is no {', '.join(unknown)}; known: {', '.join(cases)}")
        wanted = {command.reference, *(only or cases)}
        cases = {name: case for name, case in cases.items() if name in wanted}
        times = measure(cases, repeats)
        reference = np.median(times[command.reference])
        for name, case in cases.items():
            row = times.get(name, np.array([np.nan]))
            median, ratio = float(np.median(row)), float(np.median(row) / reference)
            count = repeats if name in times else 0
            speed = 1e3 * case.windows / median if case.windows else math.nan
            measurable = case.windows and case.call is not None
            peak = peak_memory(command.cases, shape, name) if measurable else math.nan
            rows.append(
                Timing(_text(shape), name, count, median, float(row.min()), ratio,
                       command.reference, speed, peak, case.note, *about)
            )  # fmt: skip
    return rows


def hardware() -> str:
    """The accelerator, or the processor with its cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


def report(rows: Sequence[Timing]) -> str:
    """What is printed: the hardware, and a table."""

    def number(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    first = rows[0]
    header = ["logits", "name", "median ms", "minimum ms", f"/ {first.reference}", "note"]
    body = [
        [r.shape, r.name, number(r.median_ms), number(r.minimum_ms), number(r.ratio), r.note]
        for r in rows
    ]
    if not all(np.isnan(r.windows_per_s) for r in rows):
        header[-1:-1] = ["windows/s", "peak MiB"]
        for cells, r in zip(body, rows, strict=True):
            cells[-1:-1] = [number(r.windows_per_s), number(r.peak_mib)]
    repeats = max(r.repeats for r in rows)
    return f"{first.hardware}, jax {first.jax}, {first.date}, {repeats} repeats\n" + table.layout(
        [header, *body]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand of the command line."""
    parser = argparse.ArgumentParser("experiments.bench", description="Time what the library does.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help)
        sub.add_argument("--shapes", nargs="+", type=_shape, metavar="BxHxWxC",
                         default=command.shapes, help="of logits")  # fmt: skip
        sub.add_argument("--only", nargs="+", default=[], metavar="NAME",
                         help=f"rows to time, {command.reference} always among them")  # fmt: skip
        sub.add_argument(
            "--repeats", type=_count, default=command.repeats, help="calls of each row"
        )
        sub.add_argument("--output", type=Path, metavar="FILE.csv")
        for flag, about in command.flags.items():
            sub.add_argument(f"--{flag.replace('_', '-')}", type=about.parse,
                             default=about.default, help=about.help)  # fmt: skip
    args = parser.parse_args(argv)
    # Before minutes of timing rather than after.
    if args.output is not None and not args.output.parent.is_dir():
        parser.error(f"--output: there is no directory {args.output.parent}; make it first")
    command = COMMANDS[args.command]
    own = {flag: getattr(args, flag) for flag in command.flags}
    command = command._replace(cases=functools.partial(command.cases, **own))
    try:
        rows = bench(command, args.shapes, args.only, args.repeats)
        if args.output is not None:
            write_csv(args.output, rows)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(report(rows))


if __name__ == "__main__":
    main()
