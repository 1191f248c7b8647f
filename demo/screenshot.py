#!/usr/bin/env python3
"""What a terminal showed, as a picture: screenshot.py typescript demo.svg (no packages needed).

The typescript is what `script -qec COMMAND typescript` records. The screen is replayed: carriage returns, erased lines, cursor
moves and colours, so that a finished progress bar leaves what it leaves on a real terminal. Nothing is added but the first line, the
command, where one is given as a third argument.
"""
import html, re, sys

COLUMNS = 110                                                     # of the terminal: `stty cols 110` before the command
W, H, PAD = 8.43, 19, 16                                          # of a character cell at 14 pixels, and the margin
COLOURS = {'31': '#f28b82', '32': '#81c995', '33': '#fdd663', '36': '#78d9ec', '90': '#8a919e', '2': '#8a919e', '1': '#ffffff'}


def replay(text):
    """The screen's rows: lists of (character, colour)."""
    rows, y, x, colour = [[]], 0, 0, None
    for m in re.finditer(r'\x1b\[([?0-9;]*)([A-Za-z])|\x1b.|([\x00-\x1f])|([^\x00-\x1f\x1b]+)', text):
        args, command, control, chars = m.groups()
        n = int(args) if args and args.isdigit() else 0
        for c in chars or '':
            if x == COLUMNS:
                y, x = y + 1, 0
                if y == len(rows): rows.append([])
            while len(rows[y]) <= x: rows[y].append((' ', None))
            rows[y][x] = c, colour; x += 1
        if control == '\n':
            y += 1
            if y == len(rows): rows.append([])
        elif control == '\r': x = 0
        elif command == 'm': colour = None if args in ('', '0') else next((COLOURS[c] for c in args.split(';') if c in COLOURS), colour)
        elif command == 'K': rows[y] = [] if n == 2 else rows[y][:x]
        elif command == 'J': del rows[y + 1:]; rows[y] = rows[y][:x]
        elif command == 'A': y = max(0, y - max(1, n))
        elif command == 'G': x = max(0, n - 1)
    while rows and not ''.join(c for c, _ in rows[-1]).strip(): rows.pop()
    return rows


def main():
    if len(sys.argv) < 3: raise SystemExit(__doc__)
    text = open(sys.argv[1], encoding='utf-8', newline='').read()
    text = re.sub(r'\A(Script started[^\n]*\n)|(\n?Script done[^\n]*\n?)\Z', '', text)
    rows = [[(c, '#ffffff') for c in '$ ' + a] for a in sys.argv[3:4]] + replay(text)
    for r in rows:
        while r and r[-1][0] == ' ': r.pop()
    w, h = max(map(len, rows)) * W + 2 * PAD, len(rows) * H + 2 * PAD
    o = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w:.0f} {h}" width="{w:.0f}" height="{h}">',
         f'<rect width="{w:.0f}" height="{h}" rx="8" fill="#1e2227"/>',
         '<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="14" fill="#d7dae0" xml:space="preserve">']
    for i, row in enumerate(rows):
        lead = next((k for k, (c, _) in enumerate(row) if c != ' '), len(row))
        spans, at = [], lead
        while at < len(row):
            end = at
            while end < len(row) and row[end][1] == row[at][1]: end += 1
            t, c = html.escape(''.join(c for c, _ in row[at:end])), row[at][1]
            spans.append(f'<tspan fill="{c}">{t}</tspan>' if c else t); at = end
        line = ''.join(spans).rstrip()
        if line: o.append(f'<text x="{PAD + lead * W:.1f}" y="{PAD + i * H + 14}" textLength="{(len(row) - lead) * W:.1f}">{line}</text>')
    with open(sys.argv[2], 'w', encoding='utf-8', newline='\n') as f: f.write('\n'.join(o + ['</g></svg>']) + '\n')
    print('\n'.join(''.join(c for c, _ in r).rstrip() for r in rows))


if __name__ == '__main__': main()
