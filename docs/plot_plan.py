#!/usr/bin/env python3
"""Draws docs/kv-bytes.svg: KV bytes of one session against its context, from `longshelf plan --json`.

    longshelf plan --json --context 1K,4K,16K,64K,256K,1M | docs/plot_plan.py > docs/kv-bytes.svg
"""
import json
import math
import sys

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 150, 56, 64
COLORS = {"flash": "#0b7285", "pro": "#5f3dc4", "v3.2": "#c2255c"}
OTHER_COLORS = ["#2b8a3e", "#e67700", "#495057"]
LABELS = {"flash": "V4 Flash", "pro": "V4 Pro", "v3.2": "V3.2"}


def short_bytes(n):
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.3g} {unit}"
        n /= 1024


def short_tokens(n):
    for unit, size in (("M", 1 << 20), ("K", 1 << 10)):
        if n >= size and n % size == 0:
            return f"{n // size}{unit}"
    return str(n)


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Plot:
    def __init__(self, models):
        self.models = models
        contexts = sorted({at["context"] for m in models for at in m["at"]})
        values = [at["kv_bytes"] for m in models for at in m["at"] if at["kv_bytes"] > 0]
        self.contexts = contexts
        self.x_range = (math.log2(contexts[0]), math.log2(contexts[-1]))
        self.y_range = (math.floor(math.log2(min(values))), math.ceil(math.log2(max(values))))

    def x(self, context):
        low, high = self.x_range
        return LEFT + (math.log2(context) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, n_bytes):
        low, high = self.y_range
        return HEIGHT - BOTTOM - (math.log2(n_bytes) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def grid(self):
        for power in range(self.y_range[0] + self.y_range[0] % 2, self.y_range[1] + 1, 2):
            y = self.y(2.0**power)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{short_bytes(2.0**power)}</text>'
        for context in self.contexts:
            x = self.x(context)
            yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{short_tokens(context)}</text>'

    def lines(self):
        label_y = []
        for i, model in enumerate(self.models):
            name = model["name"]
            color = COLORS.get(name, OTHER_COLORS[i % len(OTHER_COLORS)])
            points = [(self.x(at["context"]), self.y(at["kv_bytes"])) for at in model["at"] if at["kv_bytes"] > 0]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5" stroke-linejoin="round"/>'
            for x, y in points:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>'
            y = points[-1][1]
            while any(abs(y - other) < 34 for other in label_y):
                y += 2
            label_y.append(y)
            last = model["at"][-1]["kv_bytes"]
            yield f'<text class="name" x="{points[-1][0] + 12:.1f}" y="{y - 2:.1f}" style="fill:{color}">{escape(LABELS.get(name, name))}</text>'
            yield f'<text class="tick" x="{points[-1][0] + 12:.1f}" y="{y + 14:.1f}">{short_bytes(last)}</text>'

    def svg(self):
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="KV bytes of one session against its context">'
        yield "<style>text{font-family:system-ui,sans-serif;fill:#343a40}.tick{font-size:12px;fill:#495057}"
        yield ".name{font-size:14px;font-weight:600}.grid{stroke:#dee2e6}.title{font-size:16px;font-weight:600}</style>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        yield f'<text class="title" x="{LEFT}" y="30">KV bytes of one session</text>'
        yield from self.grid()
        # Topmost line first: where labels would collide, the lower one moves down.
        self.models = sorted(self.models, key=lambda m: -m["at"][-1]["kv_bytes"])
        yield from self.lines()
        yield f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">tokens of context</text>'
        yield "</svg>"


def main():
    plan = json.load(sys.stdin)
    if not plan["models"] or len({at["context"] for m in plan["models"] for at in m["at"]}) < 2:
        sys.exit("plot_plan.py: give at least one model and two contexts")
    print("\n".join(Plot(plan["models"]).svg()))


if __name__ == "__main__":
    main()
