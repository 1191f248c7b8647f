#!/usr/bin/env python3
"""loss.csv -> loss.svg: plot.py loss.csv loss.svg (no packages needed)."""
import csv, sys


def main():
    rows = list(csv.DictReader(open(sys.argv[1])))
    W, H, L, B, T = 720, 360, 56, 44, 24
    xs = [int(r['tokens']) / 1e6 for r in rows]
    series = [('training', 'train_loss', '#7a8ba6'), ('validation', 'valid_loss', '#c2410c')]
    vals = [float(r[k]) for r in rows for _, k, _ in series if float(r[k]) > 0]
    lo, hi, xm = int(min(vals) * 2) / 2, min(max(vals), 7.0), max(xs)
    X = lambda v: L + v / xm * (W - L - 16)
    Y = lambda v: T + (hi - min(v, hi)) / (hi - lo) * (H - T - B)
    o = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">', f'<rect width="{W}" height="{H}" fill="#fff"/>']
    v = lo
    while v <= hi:
        o.append(f'<path d="M{L} {Y(v):.1f}H{W - 16}" stroke="#ddd"/><text x="{L - 8}" y="{Y(v) + 4:.1f}" text-anchor="end">{v:.1f}</text>'); v += 0.5
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100) if xm / s <= 12)
    for i in range(int(xm / step) + 1): o.append(f'<text x="{X(i * step):.1f}" y="{H - B + 18}" text-anchor="middle">{i * step:g}</text>')
    o.append(f'<text x="{(L + W) / 2}" y="{H - 8}" text-anchor="middle">million training tokens</text><text x="{L}" y="15">loss, nats per token</text>')
    for i, (name, k, colour) in enumerate(series):
        pts = ' '.join(f'{X(x):.1f},{Y(float(r[k])):.1f}' for x, r in zip(xs, rows) if float(r[k]) > 0)
        o.append(f'<polyline points="{pts}" fill="none" stroke="{colour}" stroke-width="1.6"/><text x="{L + 100}" y="{T + 16 + 18 * i}" fill="{colour}">{name}</text>')
    marks = [('stage two', next((x for x, r in zip(xs, rows) if float(r['weight_decay']) == 0), None)),
             ('longer windows', next((x for x, r in zip(xs, rows) if r['window'] != rows[0]['window']), None))]
    for i, (name, x) in enumerate(marks):
        if x: o.append(f'<path d="M{X(x):.1f} {T}V{H - B}" stroke="#999" stroke-dasharray="4 3"/><text x="{X(x) - 4:.1f}" y="{T + 60 + 16 * i}" text-anchor="end" fill="#555">{name}</text>')
    with open(sys.argv[2], 'w', newline='\n') as f: f.write('\n'.join(o + ['</svg>']) + '\n')


if __name__ == '__main__': main()
