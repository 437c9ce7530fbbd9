"""Draws the plots of the load report as SVG, each a function of what was measured."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from load.matrix import BARE, CLIENTS, DARI, Outcome, Step
from load.sampling import Sample
from load.slope import Slope
from load.system import POSTGRES
from load.worker import CANCELLED, CHAT, OK, UNARY, UPLOAD

_COLOURS = {
    DARI: "#2f6fb3",
    BARE: "#9a9a9a",
    "replica 1": "#2f6fb3",
    "replica 2": "#74aadb",
    POSTGRES: "#e0a030",
    CLIENTS: "#b8b8b8",
    "Flowise stand-in": "#9b7fc7",
}
_STATUS_COLOURS = {OK: "#6aa84f", CANCELLED: "#bdbdbd"}
_OTHER_COLOURS = ("#6aa84f", "#8c564b", "#17becf", "#7f7f7f")
_KINDS = {
    UNARY: ("Reads (GetKnowledgeBase)", "calls a second"),
    CHAT: ("Chats (a quarter without a model)", "chats a second"),
    UPLOAD: ("Uploads (until visible)", "megabytes a second"),
}
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}
_MIB = 1024 * 1024


def throughput(outcome: Outcome) -> Figure:
    """Against the number of clients, dari beside the bare server."""
    return _each_kind(outcome, _draw_throughput)


def latencies(outcome: Outcome) -> Figure:
    """Percentiles against the number of clients, of dari."""
    return _each_kind(outcome, _draw_latencies)


def cores(outcome: Outcome) -> Figure:
    """Who used the CPU, step by step, of dari."""
    return _each_kind(outcome, _draw_cores)


def memory(outcome: Outcome) -> Figure:
    """Of each replica and of PostgreSQL over the whole run."""
    figure, axes = _figure(1, height=3.1)
    begin_s = outcome.samples[0].at_s if outcome.samples else 0.0
    _mark_steps(axes[0], outcome, begin_s)
    for name in _watched(outcome.samples):
        _draw_over_time(axes[0], outcome.samples, name, begin_s, lambda s, name: s.usages[name].resident_bytes / _MIB)
    axes[0].set(xlabel="seconds", ylabel="MiB of its own", ylim=(0, None))
    axes[0].legend(ncols=3, loc="upper left")
    return figure


def cpu(outcome: Outcome) -> Figure:
    """Of each replica, PostgreSQL and the machine over the whole run."""
    figure, axes = _figure(1, height=3.1)
    begin_s = outcome.samples[0].at_s if outcome.samples else 0.0
    _mark_steps(axes[0], outcome, begin_s)
    times = [sample.at_s - begin_s for sample in outcome.samples]
    axes[0].fill_between(
        times, [sample.busy_cores for sample in outcome.samples], color="#eeeeee", label="whole machine", step="mid"
    )
    for name in _watched(outcome.samples):
        pairs = [
            (after.at_s - begin_s, after.usages[name].cpu_s - before.usages[name].cpu_s, after.at_s - before.at_s)
            for before, after in zip(outcome.samples, outcome.samples[1:], strict=False)
            if name in before.usages and name in after.usages
        ]
        axes[0].plot(
            [at_s for at_s, _, _ in pairs],
            [max(0.0, used_s) / length_s for _, used_s, length_s in pairs],
            color=_colour(name, outcome),
            lw=1.1,
            label=name,
        )
    axes[0].set(xlabel="seconds", ylabel="cores", ylim=(0, None))
    axes[0].legend(ncols=4, loc="upper left")
    return figure


def faults(outcome: Outcome) -> Figure:
    """Calls that ended in each second of the last step, and what broke meanwhile."""
    figure, axes = _figure(2, height=2.9)
    from_s, to_s = outcome.mixed_s
    seconds = max(1, round(to_s - from_s))
    for axis, kind in zip(axes, (CHAT, UPLOAD), strict=True):
        statuses = sorted({one.status for one in outcome.mixed if one.kind == kind}, key=lambda one: (one != OK, one))
        bottom = [0.0] * seconds
        for status in statuses:
            colour = _STATUS_COLOURS.get(status, "#d62728")
            counts = [0.0] * seconds
            for one in outcome.mixed:
                if one.kind == kind and one.status == status:
                    counts[min(seconds - 1, max(0, int(one.began_s + one.took_s - from_s)))] += 1
            label = "caller left" if status == CANCELLED else status
            axis.bar(range(seconds), counts, width=1.0, align="edge", bottom=bottom, color=colour, label=label)
            bottom = [below + count for below, count in zip(bottom, counts, strict=True)]
        top = max((*bottom, 1.0))
        for fault in outcome.faults:
            colour = "#333333" if fault.what == "killed" else "#5aa0c8"
            axis.axvspan(fault.from_s - from_s, fault.to_s - from_s, color=colour, alpha=0.22, lw=0)
            axis.text(
                fault.from_s - from_s,
                top * 1.02,
                f"{fault.whom}\n{fault.what}",
                fontsize=6.5,
                color=colour,
                va="bottom",
            )
        axis.set(xlabel="seconds", ylabel=f"{kind}s that ended", ylim=(0, top * 1.3), xlim=(0, seconds))
        axis.legend(loc="upper right", fontsize=8)
    return figure


def soak(samples: Sequence[Sample], slopes: Mapping[str, Mapping[str, Slope]]) -> Figure:
    """Memory, descriptors and threads over time, with the line through what is behind the warm-up."""
    figure, axes = _figure(3, height=3.2)
    begin_s = samples[0].at_s
    quantities: dict[str, Callable[[Sample, str], float]] = {
        "memory": lambda sample, name: sample.usages[name].resident_bytes / _MIB,
        "descriptors": lambda sample, name: sample.usages[name].descriptors,
        "threads": lambda sample, name: sample.usages[name].threads,
    }
    colours = dict(zip(slopes, ("#2f6fb3", "#e0a030", "#6aa84f", "#9b7fc7", *_OTHER_COLOURS), strict=False))
    for axis, (quantity, value) in zip(axes, quantities.items(), strict=True):
        for name, of_process in slopes.items():
            own = [sample for sample in samples if name in sample.usages]
            told = f"{name} ({of_process[quantity].per_hour:+,.1f} an hour)"
            minutes = [(sample.at_s - begin_s) / 60 for sample in own]
            axis.plot(minutes, [value(sample, name) for sample in own], color=colours[name], lw=1, label=told)
        axis.set_title(f"{quantity}, MiB of its own" if quantity == "memory" else quantity)
        axis.set(xlabel="minutes", ylim=(0, axis.get_ylim()[1] * 1.45))
        axis.legend(fontsize=7, loc="upper left")
    return figure


def svg(figure: Figure) -> str:
    """The element alone, to stand inside of an HTML page."""
    written = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(written, format="svg")
    text = written.getvalue()
    return text[text.index("<svg") :]


def _figure(columns: int, height: float = 2.9) -> tuple[Figure, Sequence[Axes]]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(11, height), layout="constrained")
        axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    return figure, axes


def _each_kind(outcome: Outcome, draw: Callable[[Axes, list[Step]], None]) -> Figure:
    kinds = [kind for kind in _KINDS if any(step.kind == kind for step in outcome.steps)]
    figure, axes = _figure(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        axis.set_title(_KINDS[kind][0])
        draw(axis, [step for step in outcome.steps if step.kind == kind])
    return figure


def _draw_throughput(axis: Axes, steps: list[Step]) -> None:
    for peer in (DARI, BARE):
        own = [step for step in steps if step.peer == peer]
        axis.plot(_places(own), [step.rate for step in own], "o-", color=_COLOURS[peer], label=peer)
        for place, step in enumerate(own):
            told = f"{step.rate:,.0f}" if step.rate >= 10 else f"{step.rate:.1f}"
            offset = (0, 6)
            axis.annotate(told, (place, step.rate), offset, textcoords="offset points", fontsize=7, ha="center")
    _label_clients(axis, [step for step in steps if step.peer == DARI])
    axis.set(ylabel=_KINDS[steps[0].kind][1], ylim=(0, axis.get_ylim()[1] * 1.2))
    axis.legend(loc="upper left")


def _draw_latencies(axis: Axes, steps: list[Step]) -> None:
    own = [step for step in steps if step.peer == DARI]
    for percentile, colour in ((50, "#74aadb"), (95, "#2f6fb3"), (99, "#123a66")):
        values = [step.latencies_ms.get(percentile, float("nan")) for step in own]
        axis.plot(_places(own), values, "o-", color=colour, label=f"p{percentile}")
        first = [step.first_token_ms.get(percentile, float("nan")) for step in own]
        if steps[0].kind == CHAT:
            axis.plot(_places(own), first, "o:", color=colour, label=f"p{percentile}, first token", ms=3)
    _label_clients(axis, own)
    axis.set(ylabel="milliseconds", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.legend(fontsize=7.5)


def _draw_cores(axis: Axes, steps: list[Step]) -> None:
    own = [step for step in steps if step.peer == DARI]
    bottom = [0.0] * len(own)
    for name in dict.fromkeys(name for step in own for name in step.cores):
        used = [step.cores.get(name, 0.0) for step in own]
        axis.bar(_places(own), used, bottom=bottom, width=0.6, color=_COLOURS.get(name, "#6aa84f"), label=name)
        bottom = [below + one for below, one in zip(bottom, used, strict=True)]
    _label_clients(axis, own)
    axis.set(ylabel="cores", ylim=(0, max((*bottom, 1.0)) * 1.45))
    axis.legend(fontsize=7.5, ncols=2, loc="upper left")


def _places(steps: list[Step]) -> range:
    return range(len(steps))


def _label_clients(axis: Axes, steps: list[Step]) -> None:
    axis.set_xticks(list(_places(steps)), [str(step.clients) for step in steps])
    axis.set_xlabel("clients")


def _watched(samples: Sequence[Sample]) -> list[str]:
    """Whom the run was about; the bare servers and the stand-in are not."""
    names = dict.fromkeys(name for sample in samples for name in sample.usages)
    return [name for name in names if name == POSTGRES or name.startswith(("replica", "child", "gateway"))]


def _colour(name: str, outcome: Outcome) -> str:
    if name in _COLOURS:
        return _COLOURS[name]
    others = [one for one in _watched(outcome.samples) if one not in _COLOURS]
    return _OTHER_COLOURS[others.index(name) % len(_OTHER_COLOURS)]


def _draw_over_time(
    axis: Axes, samples: Sequence[Sample], name: str, begin_s: float, value: Callable[[Sample, str], float]
) -> None:
    own = [sample for sample in samples if name in sample.usages]
    axis.plot(
        [sample.at_s - begin_s for sample in own],
        [value(sample, name) for sample in own],
        color=_COLOURS.get(name, _OTHER_COLOURS[0]),
        lw=1.3,
        label=name,
    )


def _mark_steps(axis: Axes, outcome: Outcome, begin_s: float) -> None:
    """A band for each kind of call, and for the faults."""
    for kind, colour in ((UNARY, "#eef4fa"), (CHAT, "#f4effa"), (UPLOAD, "#fbf5e6")):
        own = [step for step in outcome.steps if step.kind == kind]
        if own:
            from_s, to_s = own[0].from_s - begin_s, own[-1].to_s - begin_s
            axis.axvspan(from_s, to_s, color=colour, lw=0, zorder=0)
            axis.text(from_s, 1.01, f" {kind}", transform=axis.get_xaxis_transform(), fontsize=7.5, color="#777777")
    from_s, to_s = (moment - begin_s for moment in outcome.mixed_s)
    axis.axvspan(from_s, to_s, color="#fdeeee", lw=0, zorder=0)
    axis.text(from_s, 1.01, " faults", transform=axis.get_xaxis_transform(), fontsize=7.5, color="#a06060")
