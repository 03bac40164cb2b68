#!/usr/bin/env python3
"""Draws docs/session-resume.svg, session-decode.svg and session-bytes.svg from the figures of bench/long_sessions.py.

    bench/long_sessions.py --json bench/long_sessions.json && docs/plot_sessions.py bench/long_sessions.json docs
"""
import json
import math
import os
import statistics
import sys

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 190, 56, 64
COLORS = ["#c2255c", "#0b7285", "#5f3dc4"]
LABEL_GAP = 36


def short_tokens(n):
    return f"{n / 1e6:.4g}M" if n >= 1_000_000 else f"{n // 1000}K"


def short_seconds(s):
    return f"{s:,.0f} s" if s >= 10 else f"{s:.2g} s"


class Line:
    """One series: a value at each length, and the lowest and the highest where it was measured more than once."""

    def __init__(self, name, values, spans=None, dashed=False):
        self.name, self.values, self.spans, self.dashed = name, values, spans, dashed


class Plot:
    def __init__(self, title, y_name, tokens, lines, show, log=False):
        self.title, self.y_name, self.tokens, self.lines, self.show, self.log = title, y_name, tokens, lines, show, log
        values = [v for line in lines for v in line.values]
        values += [v for line in lines for span in line.spans or [] for v in span]
        if log:
            self.low, self.high = (10.0 ** math.floor(math.log10(min(values))), 10.0 ** math.ceil(math.log10(max(values))))
        else:
            self.step = next(s for s in (f * 10**e for e in range(-3, 12) for f in (1, 2, 5)) if max(values) / s <= 6)
            self.low, self.high = 0, self.step * math.ceil(max(values) / self.step)

    def x(self, n):
        return LEFT + n / (1.04 * max(self.tokens)) * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        at = lambda v: math.log10(v) if self.log else v  # noqa: E731
        share = (at(value) - at(self.low)) / (at(self.high) - at(self.low))
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def ticks(self):
        if not self.log:
            return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]
        return [10.0**e for e in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]

    def grid(self):
        for value in self.ticks():
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        for n in self.tokens:
            x = self.x(n)
            yield f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">{short_tokens(n)}</text>'

    def series(self):
        taken = []
        # Topmost line first: where labels would collide, the lower one moves down.
        for i in sorted(range(len(self.lines)), key=lambda i: -self.lines[i].values[-1]):
            line, color = self.lines[i], COLORS[i]
            points = [(self.x(n), self.y(v)) for n, v in zip(self.tokens, line.values)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            dash = ' stroke-dasharray="6 5"' if line.dashed else ""
            yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2.5"{dash}/>'
            # The bars of two series at one length stand side by side.
            for (x, _), (low, high) in zip(points, line.spans or []):
                at = x - 3 + 6 * i
                yield (f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{self.y(low):.1f}" y2="{self.y(high):.1f}" '
                       f'stroke="{color}" stroke-width="1.5" stroke-opacity="0.6"/>')
            for x, y in points:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>'
            y = points[-1][1]
            while any(abs(y - other) < LABEL_GAP for other in taken):
                y += 2
            taken.append(y)
            x = WIDTH - RIGHT + 12
            yield f'<text class="name" x="{x}" y="{y - 2:.1f}" style="fill:{color}">{line.name}</text>'
            yield f'<text class="tick" x="{x}" y="{y + 14:.1f}">{self.show(line.values[-1])}</text>'

    def svg(self):
        middle = (TOP + HEIGHT - BOTTOM) / 2
        yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{self.title}">'
        yield "<style>text{font-family:system-ui,sans-serif;fill:#343a40}.tick{font-size:12px;fill:#495057}"
        yield ".name{font-size:14px;font-weight:600}.grid{stroke:#dee2e6}.title{font-size:16px;font-weight:600}</style>"
        yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        yield f'<text class="title" x="{LEFT}" y="30">{self.title}</text>'
        yield from self.grid()
        yield from self.series()
        yield f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 18}" text-anchor="middle">tokens of context</text>'
        yield f'<text class="tick" transform="translate(22 {middle}) rotate(-90)" text-anchor="middle">{self.y_name}</text>'
        yield "</svg>"


def measured(sessions, key):
    runs = [[run[key] for run in session["runs"]] for session in sessions]
    return [statistics.median(values) for values in runs], [(min(values), max(values)) for values in runs]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        sessions = json.load(file)["sessions"]
    tokens = [session["tokens"] for session in sessions]
    if len(tokens) < 2:
        sys.exit("plot_sessions.py: sessions of at least two lengths, please")
    resumed, before, after = (measured(sessions, key) for key in ("first_token_s", "decode_cpu_ms_before", "decode_cpu_ms_after"))
    planned, stored = ([session["memory"][key] / 1e6 for session in sessions] for key in ("planned_bytes", "parked_bytes"))
    plots = {
        "session-resume": Plot(
            "Time to the first token of a demo session", "seconds, logarithmic", tokens,
            [Line("prompt computed", [session["prefill"]["seconds"] for session in sessions]),
             Line("resumed elsewhere", *resumed)], short_seconds, log=True),
        "session-decode": Plot(
            "Decoding before parking and after resuming elsewhere", "processor ms per token", tokens,
            [Line("before", *before), Line("after", *after, dashed=True)], lambda v: f"{v:.1f} ms"),
        "session-bytes": Plot(
            "What the store keeps of a parked demo session", "MB", tokens,
            [Line("in the store", stored), Line("longshelf plan", planned, dashed=True)], lambda v: f"{v:.0f} MB")}
    for name, plot in plots.items():
        with open(os.path.join(sys.argv[2], name + ".svg"), "w") as file:
            file.write("\n".join(plot.svg()) + "\n")


main()
