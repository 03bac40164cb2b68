#!/usr/bin/env python3
"""Draws groups of shards: what was measured, and what `longshelf plan` simulates.

    docs/plot_groups.py measured groups-demo.json groups-mid.json > docs/groups-measured.svg
    for n in 1 2 4 8 16; do longshelf plan --shards $n --hosts $n --json; done | docs/plot_groups.py simulated > docs/groups-simulated.svg

The first reads what bench/group_bench.py --json wrote."""
import json
import math
import sys

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 760, 84, 150, 56, 64
COLORS = ["#0b7285", "#5f3dc4", "#c2255c", "#2b8a3e", "#e67700", "#495057"]
STYLE = ("<style>text{font-family:system-ui,sans-serif;fill:#343a40}.tick{font-size:12px;fill:#495057}"
         ".name{font-size:14px;font-weight:600}.grid{stroke:#dee2e6}.title{font-size:16px;font-weight:600}</style>")


def escape(text):
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def text(kind, x, y, what, anchor="start", color=None):
    style = f' style="fill:{color}"' if color else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(what)}</text>'


def page(height, title, body):
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
    yield STYLE + f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    yield text("title", LEFT, 30, title)
    yield from body
    yield "</svg>"


def layout_name(layout):
    hosts, shards = layout["hosts"], layout["shards"]
    return f"{shards} shard{'s' * (shards > 1)}, {hosts} host{'s' * (hosts > 1)}"


def measured(paths):
    """Bars: of each model and phase the ratio to one shard, layout by layout."""
    reports = [json.load(open(path, encoding="utf-8")) for path in paths]
    row, gap = 16, 30
    phases = [p for p in reports[0]["layouts"][0] if isinstance(reports[0]["layouts"][0][p], dict)]
    top = max(layout[p]["ratio"] for report in reports for layout in report["layouts"] for p in phases)
    scale = (WIDTH - 250 - 150) / max(1.0, top)
    lines, y = [], TOP + 6
    for report in reports:
        for phase in phases:
            lines.append(text("name", LEFT, y, f"{report['model']}, {phase}"))
            y += 8
            for i, layout in enumerate(report["layouts"]):
                ratio = layout[phase]["ratio"]
                lines.append(text("tick", 240, y + row - 4, layout_name(layout), "end"))
                lines.append(f'<rect x="250" y="{y}" width="{ratio * scale:.1f}" height="{row - 3}" '
                             f'fill="{COLORS[i % len(COLORS)]}"/>')
                lines.append(text("tick", 256 + ratio * scale, y + row - 4,
                                  f"{ratio:.2f}, {layout[phase]['tokens_per_s']:.0f} tokens/s"))
                y += row
            y += gap
    return page(y, f"Groups on {reports[0]['cores']} cores: tokens per second, of one shard", lines)


def documents(stream):
    decoder, rest = json.JSONDecoder(), stream.read().strip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()


def simulated(stream):
    """Lines: tokens per second by hosts, one line for each batch."""
    plans = sorted(documents(stream), key=lambda p: p["hosts"])
    if len(plans) < 2 or not all(p["simulated"] for p in plans):
        sys.exit("plot_groups.py: give the JSON of at least two numbers of hosts")
    height = 440
    series = {}
    for plan in plans:
        model = plan["models"][0]
        for step in model["decode"]:
            series.setdefault(f"decode of {step['tokens']}", []).append((plan["hosts"], step["tokens_per_second"]))
        series.setdefault("prefill", []).append((plan["hosts"], model["prefill_on_all_shards"]["tokens_per_second"]))
    values = [v for points in series.values() for _, v in points]
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    x_low, x_high = math.log2(plans[0]["hosts"]), math.log2(plans[-1]["hosts"])
    x = lambda n: LEFT + (math.log2(n) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    y = lambda v: height - BOTTOM - (math.log2(v) - low) / (high - low) * (height - TOP - BOTTOM)  # noqa: E731
    lines = []
    for power in range(low, high + 1):
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(2.0**power):.1f}" y2="{y(2.0**power):.1f}"/>')
        lines.append(text("tick", LEFT - 10, y(2.0**power) + 4, f"{2.0**power:g}", "end"))
    for plan in plans:
        lines.append(text("tick", x(plan["hosts"]), height - BOTTOM + 22, plan["hosts"], "middle"))
    for (name, points), color in zip(series.items(), COLORS):
        path = " ".join(f"{x(n):.1f},{y(v):.1f}" for n, v in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        lines.extend(f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3.5" fill="{color}"/>' for n, v in points)
        lines.append(text("name", x(points[-1][0]) + 12, y(points[-1][1]) + 4, name, color=color))
    lines.append(text("tick", (LEFT + WIDTH - RIGHT) / 2, height - 18, "hosts, one shard each", "middle"))
    title = f"{plans[0]['models'][0]['name']}, simulated: tokens per second, network {plans[0]['network']['name']}"
    return page(height, title, lines)


def main():
    if len(sys.argv) > 2 and sys.argv[1] == "measured":
        print("\n".join(measured(sys.argv[2:])))
    elif sys.argv[1:] == ["simulated"]:
        print("\n".join(simulated(sys.stdin)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
