#!/usr/bin/env python3
"""Builds the demo model's corpus from the Rust documentation installed with the toolchain.

    corpus.py OUTDIR [--doc PATH] [--heldout FILE]

Reads `$(rustc --print sysroot)/share/doc/rust/html` (rustup component `rust-docs`, MIT OR Apache-2.0) and writes
OUTDIR/train.txt, OUTDIR/valid.txt, OUTDIR/heldout.txt (documents separated by one NUL byte) and OUTDIR/stats.json, and
the heads of the held-out documents to FILE: valid is for choosing settings and checkpoints, held-out only for the report. The same documentation gives the same bytes. Only lxml is needed.
"""
import argparse, hashlib, json, os, re, subprocess, sys
from lxml import html

# Order matters: a repeated paragraph is kept where it is met first.
BOOKS = ['book', 'rust-by-example', 'reference', 'std', 'alloc', 'core', 'proc_macro', 'test', 'nomicon', 'cargo', 'rustc',
         'rustdoc', 'error_codes', 'edition-guide', 'embedded-book', 'style-guide', 'clippy', 'unstable-book', 'src']
SKIP = re.compile(r'^(book/(first|second|2018)-edition|rust-by-example/(es|ja|ko|zh)|(core|std|alloc)/(arch|intrinsics|legacy_int_modules)'
                  r'|core/core_(arch|simd)|std_detect|src/core/stdarch|src/core/intrinsics/simd|src/core/unicode/(unicode_data|printable)'
                  r'|src/.*/(tests|benches)/|src/.*/(tests|benches|generated|bench)\.rs)'
                  r'|/(print|toc|404|all|SUMMARY|CHANGELOG|test-summary)\.html$|![^/]*\.html$')
FIRST = ['primitive.i32', 'primitive.u32', 'primitive.u8', 'primitive.usize', 'primitive.f64']     # before their look-alikes
DROP_CLASS = {'src', 'rightside', 'since', 'out-of-band', 'anchor', 'doc-anchor', 'test-arrow', 'tooltip', 'buttons', 'notable-traits',
              'rule', 'rule-link', 'hideme', 'scrape-help', 'item-info', 'stab', 'railroad-button', 'ferris-container', 'footnote-backref', 'test-link',
              'rustdoc-breadcrumbs', 'grammar-container', 'boring'}
DROP_ID = {'trait-implementations', 'trait-implementations-list', 'synthetic-implementations', 'synthetic-implementations-list',
           'blanket-implementations', 'blanket-implementations-list', 'implementors', 'implementors-list', 'foreign-impls',
           'synthetic-implementors', 'synthetic-implementors-list', 'deref-methods', 'railroad'}
DROP_TAG = {'script', 'style', 'nav', 'button', 'rustdoc-toolbar', 'svg', 'img', 'noscript', 'rustdoc-search', 'rustdoc-topbar', 'iframe', 'wbr'}
ASCII = str.maketrans({'‘': "'", '’': "'", '“': '"', '”': '"', '\u00a0': ' ', '–': '-', '…': '...', '\u200b': None, '\u2011': '-'})
HEAD = {'h1': '# ', 'h2': '## ', 'h3': '### ', 'h4': '#### ', 'h5': '#### ', 'h6': '#### '}


def dropped(e):
    if not isinstance(e.tag, str) or e.tag in DROP_TAG or e.get('id') in DROP_ID: return True
    c = e.get('class')
    return bool(c) and not DROP_CLASS.isdisjoint(c.split())


def raw(e, out, code):
    """Text of an element as it reads on the page; inline code gets its back-ticks."""
    if e.text: out.append(e.text)
    for k in e:
        if not dropped(k):
            c = k.get('class') or ''
            if code and k.tag == 'div' and 'where' in c.split(): out.append('\n')
            if k.tag == 'br': out.append('\n')
            elif k.tag == 'code' and not code:
                t = ''.join(raw(k, [], True)).strip()
                out.append(f'`{t}`' if t else '')
            else: raw(k, out, code)
            if code and ('code-attribute' in c or ('where' in c.split() and (k.tail or '').startswith('{'))): out.append('\n')
        elif k.tag == 'wbr' and k.text: out.append(k.text)
        if k.tail: out.append(k.tail)
    return out


def inline(e): return re.sub(r'\s+', ' ', ''.join(raw(e, [], False)).translate(ASCII)).strip()


def code(e):
    t = '\n'.join(l.rstrip() for l in ''.join(raw(e, [], True)).replace('\u00a0', ' ').strip('\n').split('\n'))
    wrapped = re.match(r'(?:#!\[allow\(.*\)\]\n)+fn main\(\) \{\n(.*)\n\}$', t, re.S)        # put there for the playground
    return wrapped.group(1).strip('\n') if wrapped else t


def blocks(e, out, lead=''):
    """Appends (kind, text) of every block under e. Kinds: head, text, code."""
    def loose(t):
        t = re.sub(r'\s+', ' ', (t or '').translate(ASCII)).strip()
        if len(t) > 1: out.append(('text', lead + t))
    loose(e.text)
    for k in e:
        if not dropped(k):
            c = (k.get('class') or '').split()
            if 'code-header' in c:
                if k.tag == 'h4' or 'method' in (k.getparent().get('class') or ''): out.append(('sig', code(k)))
                elif code(k).startswith('impl'): out.append(('head', '### `' + re.sub(r'\s+', ' ', code(k)) + '`'))
            elif k.tag in HEAD:
                t = inline(k)
                if t: out.append(('head', HEAD[k.tag] + t))
            elif k.tag == 'pre':
                t = code(k)
                inner = k.find('code')
                cls = (k.get('class') or '') + ' ' + ((inner.get('class') or '') if inner is not None else '')
                lang = re.search(r'language-([\w+]+)', cls)
                lang = lang.group(1) if lang else 'rust' if 'rust' in cls else ''
                if t.strip(): out.append(('sig' if 'item-decl' in cls else 'code', t if 'item-decl' in cls else f'```{lang}\n{t}\n```'))
            elif k.tag == 'p':
                t = inline(k)
                if t: out.append(('text', lead + t))
            elif k.tag in ('ul', 'ol'):
                items = []
                for li in k.iter('li'):
                    if li.getparent() is not k: continue
                    sub = []; blocks(li, sub) if any(x.tag in ('p', 'pre', 'ul', 'ol', 'div') for x in li) else sub.append(('text', inline(li)))
                    if all(s[0] == 'text' for s in sub): items.append('- ' + '\n  '.join(s[1] for s in sub if s[1]))
                    else: items.append('- ' + '\n\n'.join(s[1] for s in sub))
                if items: out.append(('text', '\n'.join(i for i in items if len(i) > 2)))
            elif k.tag == 'dl':
                rows, name = [], ''
                for d in k:
                    if d.tag == 'dt': name = inline(d)
                    elif d.tag == 'dd': rows.append(f'- `{name.strip("`")}`: {inline(d)}' if 'item-table' in c else f'- {name}: {inline(d)}')
                out.extend(('text', r) for r in rows)
            elif k.tag == 'table':
                rows = [' | '.join(inline(d) for d in r if d.tag in ('td', 'th')) for r in k.iter('tr')]
                out.append(('text', '\n'.join(f'| {r} |' for r in rows if r.strip(' |'))))
            elif k.tag == 'summary' and not any('code-header' in (x.get('class') or '') for x in k.iter()): pass
            elif k.tag in ('a', 'em', 'strong', 'code', 'span', 'sup', 'kbd', 'b', 'i'):
                t = inline(k)
                if len(t) > 2: out.append(('text', lead + (f'`{t}`' if k.tag == 'code' else t)))
            else: blocks(k, out, lead)
        loose(k.tail)
    return out


def page(tree):
    m = tree.xpath('//section[@id="main-content"]') or tree.xpath('//main')
    return blocks(m[0], []) if m else []


ITEM = re.compile(r'^\s*(pub|fn|struct|enum|trait|impl|macro_rules|const|static|type|mod|unsafe|async|#\[)')


def source(tree):
    """A rustdoc source page: the code, with only the first paragraph of each doc comment."""
    pre = tree.xpath('//pre[contains(@class, "rust")]/code')
    if not pre: return []
    for a in pre[0].xpath('.//a[@data-nosnippet]'): a.text = None
    lines, keep, in_doc, para = ''.join(raw(pre[0], [], True)).split('\n'), [], False, False
    for l in lines:
        s = l.strip()
        if s.startswith(('///', '//!')) and not s.startswith('////'):
            if not in_doc: in_doc, para = True, True
            if s[3:].strip() == '' or s[3:].lstrip().startswith(('#', '```', '|', '[')): para = False
            if para: keep.append(l.rstrip())
            continue
        in_doc = False
        if s.startswith(('#[', '#![')) and re.match(r'#!?\[(stable|unstable|rustc_|feature|deny|warn|must_use|cfg_attr|doc|allow|lang|track_caller|inline|cold)', s) and re.search(r'\]( *//.*)?$', s): continue
        keep.append(l.rstrip())
    out = []
    for b in re.split(r'\n\n+', re.sub(r'\n{3,}', '\n\n', '\n'.join(keep)).strip('\n')):
        if any(len(l) > 160 for l in b.split('\n')): continue
        letters = sum(ch.isalpha() or ch in ' \n' for ch in b)
        if letters < 0.6 * len(b) or b.count('0x') > 8: continue
        out.append(('src', b))
    return out


NUM = re.compile(r'\b[iu](?:8|16|32|64|128|size)\b|\bf(?:16|32|64|128)\b|Atomic[IU]\w+|NonZero\w*|\d+')


def key(text):
    """Two blocks that differ only in number types, digits, spacing or punctuation count as one."""
    return hashlib.blake2b(re.sub(r'[\W_]+', '', NUM.sub('N', text)).lower().encode(), digest_size=12).digest()


RANK = {'#': 1, '##': 2, '###': 3, 'sig': 4, '####': 5}      # a signature heads the text that documents it


def document(bl, seen):
    out = []        # (rank or 0, text, droppable)
    def close(rank):        # headings and repeated signatures with nothing left under them go
        while out and out[-1][0] >= rank and out[-1][2]: out.pop()
    for kind, t in bl:
        t = t.strip('\n')
        if not t.strip(): continue
        if kind == 'head':
            rank = RANK[t.split(' ')[0]]
            close(rank); out.append((rank, t, True)); continue
        dup = False
        if len(re.sub(r'\s', '', t)) > (24 if kind == 'src' else 16):
            k = key(t); dup = k in seen; seen.add(k)
        if kind == 'sig':
            close(4); out.append((4, f'```rust\n{t}\n```', dup))
        elif not dup: out.append((0, t, False))
    close(1)
    return '\n\n'.join(t for _, t, _ in out) + '\n' if out else ''


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('out'); ap.add_argument('--doc'); ap.add_argument('--heldout')
    a = ap.parse_args()
    root = a.doc or os.path.join(subprocess.check_output(['rustc', '--print', 'sysroot'], text=True).strip(), 'share/doc/rust/html')
    pages = []
    for n, b in enumerate(BOOKS):
        for d, _, fs in os.walk(os.path.join(root, b)):
            for f in fs:
                rel = os.path.relpath(os.path.join(d, f), root)
                if f.endswith('.html') and not SKIP.search(rel): pages.append((n, not f.startswith(tuple(FIRST)), rel))
    pages = sorted(pages)
    twins = {rel[4:] for _, _, rel in pages if rel.startswith('std/')}
    docs = []
    for _, _, rel in pages:
        if rel.split('/')[0] in ('core', 'alloc') and rel.split('/', 1)[1] in twins: continue     # std re-exports it
        with open(os.path.join(root, rel), 'rb') as f: data = f.read()
        if b'http-equiv="refresh"' in data[:2000].lower(): continue
        tree = html.fromstring(data.decode('utf-8').encode('utf-8'), parser=html.HTMLParser(encoding='utf-8'))
        bl = source(tree) if rel.startswith('src/') else page(tree)
        if bl: docs.append((rel, bl))
    def part(rel):
        h = int(hashlib.sha256(rel.encode()).hexdigest(), 16) % 1000
        return 'heldout' if h < 14 else 'valid' if h < 24 else 'train'
    seen, text = set(), {}
    # Held-out documents first, so that none of their paragraphs can also be in the training part.
    for rel, bl in sorted(docs, key=lambda d: ('heldout', 'valid', 'train').index(part(d[0]))): text[rel] = document(bl, seen)
    parts = {'train': [], 'valid': [], 'heldout': []}
    stats = {}
    for rel, _ in docs:
        t = text[rel]
        if len(t) < 200: continue
        parts[part(rel)].append((rel, t))
        s = stats.setdefault(rel.split('/')[0], [0, 0]); s[0] += 1; s[1] += len(t.encode())
    os.makedirs(a.out, exist_ok=True)
    for p, ds in parts.items():
        with open(os.path.join(a.out, p + '.txt'), 'w', newline='\n') as f: f.write('\0'.join(t for _, t in ds))
    if a.heldout:       # the head of each held-out document, cut at a paragraph
        with open(a.heldout, 'w', newline='\n') as f:
            cut = []
            for rel, t in parts['heldout']:
                if len(t) > 5000: t = t[:t.rfind('\n\n', 0, 5000) + 1]
                if t.count('```') % 2: t = t[:t.rfind('```')].rstrip('\n') + '\n'
                cut.append(t)
            f.write('\n'.join(cut))
    st = dict(version=subprocess.run(['rustc', '--version'], capture_output=True, text=True).stdout.strip(),
              parts={p: dict(documents=len(d), bytes=sum(len(t.encode()) for _, t in d)) for p, d in parts.items()},
              sources={k: dict(documents=v[0], bytes=v[1]) for k, v in stats.items()}, heldout=[r for r, _ in parts['heldout']])
    with open(os.path.join(a.out, 'stats.json'), 'w') as f: json.dump(st, f, indent=1)
    print(json.dumps({k: st[k] for k in ('version', 'parts', 'sources')}, indent=1))


if __name__ == '__main__': main()
