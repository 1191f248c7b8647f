#!/usr/bin/env python3
"""Float32 reference of an exported model: everything is computed from the weights in the GGUF file.

    eval.py sterna-demo.gguf heldout.txt [--context 512] [--json reference.json]    perplexity, sparsity, greedy completions
    eval.py sterna-demo.gguf heldout.txt --numpy        compares the PyTorch graph with a plain numpy one
    eval.py sterna-demo.gguf heldout.txt --sample       prints samples at temperature 0.7

Perplexity: the file is tokenised whole, without BOS, and cut into consecutive windows of context - 1 tokens. Each window is
fed after one BOS, which is not scored; every token of the file is scored once, from the logits one position before it.
"""
import argparse, hashlib, json, math, struct
import numpy as np
import torch
from bitnet import Config, Model, nll_windows
from tokenizer import build

PROMPTS = ['fn main() {\n', 'impl Iterator for', 'let mut v = Vec::', '# Examples\n\n', 'use std::collections::', 'The `Vec` type',
           'A variable in Rust', '/// Returns `true` if']


def read_gguf(path):
    b, at = open(path, 'rb').read(), 4
    def take(f):
        nonlocal at
        v = struct.unpack_from('<' + f, b, at); at += struct.calcsize('<' + f)
        return v[0]
    def string():
        nonlocal at
        n = take('Q'); at += n
        return b[at - n:at].decode()
    def value(t):
        if t == 8: return string()
        if t == 9: e, n = take('I'), take('Q'); return [value(e) for _ in range(n)]
        return take({4: 'I', 5: 'i', 6: 'f', 7: '?'}[t])
    assert b[:4] == b'GGUF' and take('I') == 3
    nt, nk = take('Q'), take('Q')
    kvs = {}
    for _ in range(nk): k = string(); kvs[k] = value(take('I'))
    infos = []
    for _ in range(nt): k = string(); infos.append((k, [take('Q') for _ in range(take('I'))], take('I'), take('Q')))
    base, w = -(-at // 32) * 32, {}
    for name, dims, t, off in infos:
        n, off, shape = math.prod(dims), base + off, dims[::-1]
        if t == 36:
            q = np.frombuffer(b, np.uint8, n // 4, off).reshape(-1, 32)
            codes = np.stack([q >> 6, q >> 4 & 3, q >> 2 & 3, q & 3], 1).reshape(shape).astype(np.float32) - 1
            w[name] = codes, np.frombuffer(b, '<f4', 1, off + n // 4)[0]
        else: w[name] = np.frombuffer(b, {0: '<f4', 1: '<f2'}[t], n, off).reshape(shape).astype(np.float32)
    return kvs, w, hashlib.sha256(b).hexdigest()


def config(kvs):
    g = lambda k: kvs['bitnet-b1.58.' + k]
    return Config(vocab=g('vocab_size'), hidden=g('embedding_length'), ffn=g('feed_forward_length'), layers=g('block_count'),
                  heads=g('attention.head_count'), kv_heads=g('attention.head_count_kv'), context=g('context_length'),
                  rope_base=g('rope.freq_base'), eps=g('attention.layer_norm_rms_epsilon'))


def numpy_logits(c, w, ids):
    """The same graph again, in numpy alone."""
    def rms(x, g): return (x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + c.eps).astype(np.float32) * g).astype(np.float32)
    def mm(x, m):
        s = (127 / np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-5))).astype(np.float32)
        return (np.rint(x * s) @ m[0].T / s * m[1]).astype(np.float32)
    n, d = len(ids), c.hidden // c.heads
    ang = np.arange(n)[:, None, None] * c.rope_base ** (-np.arange(d // 2) * 2.0 / d)
    def rope(v): a, b = v[..., :d // 2], v[..., d // 2:]; return np.concatenate([a * np.cos(ang) - b * np.sin(ang), a * np.sin(ang) + b * np.cos(ang)], -1)
    x = w['token_embd.weight'][ids]
    for i in range(c.layers):
        p = lambda k: w[f'blk.{i}.{k}.weight']
        h = rms(x, p('attn_norm'))
        q, k, v = rope(mm(h, p('attn_q')).reshape(n, c.heads, d)), rope(mm(h, p('attn_k')).reshape(n, c.kv_heads, d)), mm(h, p('attn_v')).reshape(n, c.kv_heads, d)
        o = np.empty((n, c.heads, d), np.float32)
        for j in range(c.heads):
            s = q[:, j] @ k[:, j * c.kv_heads // c.heads].T / d ** 0.5 + np.triu(np.full((n, n), -np.inf), 1)
            e = np.exp(s - s.max(-1, keepdims=True))
            o[:, j] = e / e.sum(-1, keepdims=True) @ v[:, j * c.kv_heads // c.heads]
        x = x + mm(rms(o.reshape(n, -1), p('attn_sub_norm')), p('attn_output'))
        h = rms(x, p('ffn_norm'))
        x = x + mm(rms(np.maximum(mm(h, p('ffn_gate')), 0) ** 2 * mm(h, p('ffn_up')), p('ffn_sub_norm')), p('ffn_down'))
    return rms(x, w['output_norm.weight']) @ w['token_embd.weight'].T


def generate(model, ids, n, temperature=0.0, gen=None):
    ids, gaps = list(ids), []
    for _ in range(n):
        with torch.no_grad(): l = model(torch.tensor([ids[-model.c.context:]]))[0, -1]
        top = l.topk(2); gaps.append(round((top.values[0] - top.values[1]).item(), 5))
        ids.append(int(top.indices[0]) if temperature == 0 else int(torch.multinomial((l / temperature).softmax(-1), 1, generator=gen)))
    return ids[-n:], gaps


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('model'); ap.add_argument('text'); ap.add_argument('--context', type=int, default=512); ap.add_argument('--json')
    ap.add_argument('--numpy', action='store_true'); ap.add_argument('--sample', action='store_true'); ap.add_argument('--threads', type=int, default=0)
    a = ap.parse_args()
    if a.threads: torch.set_num_threads(a.threads)
    kvs, w, sha = read_gguf(a.model)
    c = config(kvs); model = Model(c).load(w)
    tok, bos = build(kvs['tokenizer.ggml.tokens'], kvs['tokenizer.ggml.merges']), kvs['tokenizer.ggml.bos_token_id']
    text = open(a.text, encoding='utf-8', newline='').read()
    ids = tok.encode(text).ids
    assert tok.decode(ids) == text
    if a.numpy:
        for lo in (0, 5000, 20000):
            s = [bos] + ids[lo:lo + c.context - 1]
            with torch.no_grad(): t = model(torch.tensor([s]))[0].numpy()
            n = numpy_logits(c, w, s)
            cos = (t * n).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(n, axis=-1)
            print(f'tokens {lo}..{lo + len(s) - 1}: cosine min {cos.min():.7f} mean {cos.mean():.7f}, same best token {(t.argmax(-1) == n.argmax(-1)).mean():.4f}')
        return
    if a.sample:
        gen = torch.Generator().manual_seed(158)
        for p in PROMPTS: print('-' * 20 + '\n' + p + tok.decode(generate(model, [bos] + tok.encode(p).ids, 96, 0.7, gen)[0]))
        return
    for b in model.blocks: b.stats = []
    each = nll_windows(model, torch.tensor(ids), bos, a.context).double()
    nll = each.sum().item()
    size = len(text.encode())
    out = dict(sha256=sha, perplexity=dict(tokens=len(ids), bytes=size, perplexity=round(math.exp(nll / len(ids)), 4),
                                           bits_per_byte=round(nll / math.log(2) / size, 5), context=a.context),
               window_nats=[round(w.sum().item(), 3) for w in each.split(a.context - 1)], sparsity=[], greedy=[])
    print(json.dumps(out['perplexity']))
    for i, b in enumerate(model.blocks):
        gate, down = (torch.cat([s[j].reshape(-1) for s in b.stats]).mean().item() for j in (0, 1)); b.stats = None
        out['sparsity'].append(dict(layer=i, gate_not_positive=round(gate, 4), down_input_zero=round(down, 4)))
        print(json.dumps(out['sparsity'][-1]))
    for p in PROMPTS:
        prompt = [bos] + tok.encode(p).ids
        new, gaps = generate(model, prompt, 32)
        out['greedy'].append(dict(prompt=p, prompt_tokens=prompt, tokens=new, text=tok.decode(new), gap=gaps))
        print(json.dumps([p, out['greedy'][-1]['text'], min(gaps)]))
    if a.json:
        with open(a.json, 'w', newline='\n') as f: json.dump(out, f, indent=1); f.write('\n')


if __name__ == '__main__': main()
