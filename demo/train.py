#!/usr/bin/env python3
"""Trains the demo model (PyTorch; nothing else in the project needs it).

    train.py CORPUSDIR OUTDIR [--preset gpu|cpu] [--epochs N] [--minutes M]

Writes OUTDIR/model.npz (tokenizer, ternary codes and scales, f16 embedding, f32 norms: the state with the best validation
loss) and OUTDIR/loss.csv. Two stages, as the BitNet authors advise: a high learning rate with weight decay, then, from half way, a
lower one without.
"""
import argparse, csv, json, math, os, time
import numpy as np
import torch
from bitnet import Config, Model, nll_windows

PRESETS = {
    'gpu': dict(),
    'cpu': dict(hidden=256, ffn=768, layers=4, heads=4, kv_heads=2, epochs=6.0, dropout=0.0, lr=0.04, embd_lr=5e-3, valid_tokens=16384),
}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('corpus'); ap.add_argument('out')
    ap.add_argument('--preset', choices=PRESETS, default='gpu')
    for k, v in dict(hidden=384, ffn=1024, layers=5, heads=6, kv_heads=2, context=512, seq=256, seq2=512, batch=16, epochs=60.0, minutes=1e9,
                     lr=0.02, embd_lr=3e-3, stage2=0.6, wd=0.1, warmup=100, threads=0, dropout=0.1, seed=158, valid_tokens=1 << 30, eval_every=100).items():
        ap.add_argument('--' + k.replace('_', '-'), type=type(v), default=v)
    ap.add_argument('--no-compile', action='store_true')
    pre, _ = ap.parse_known_args(); ap.set_defaults(**PRESETS[pre.preset])
    a = ap.parse_args()
    dev = 'cuda' if torch.cuda.is_available() else 'cpu'
    if a.threads: torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed); torch.set_float32_matmul_precision('high')
    tokens = torch.from_numpy(np.load(os.path.join(a.corpus, 'train.npy')).astype(np.int64)).to(dev)
    valid = torch.from_numpy(np.load(os.path.join(a.corpus, 'valid.npy')).astype(np.int64)).to(dev)[:a.valid_tokens]
    tokenizer = open(os.path.join(a.corpus, 'tokenizer.json')).read()
    vocab = len(json.loads(tokenizer)['tokens']); bos = vocab - 3
    cfg = Config(vocab=vocab, hidden=a.hidden, ffn=a.ffn, layers=a.layers, heads=a.heads, kv_heads=a.kv_heads, context=a.context, dropout=a.dropout)
    model = Model(cfg).to(dev)
    decay = [p for n, p in model.named_parameters() if p.dim() == 2 and n != 'token_embd']
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or n == 'token_embd']
    # Muon for the ternary matrices, AdamW for the embedding and the norms.
    opts = [torch.optim.Muon(decay, lr=a.lr, momentum=0.95, weight_decay=a.wd),
            torch.optim.AdamW(rest, lr=a.embd_lr, betas=(0.9, 0.95), weight_decay=0.0)]
    run = model if a.no_compile else torch.compile(model, dynamic=False)
    cast = lambda: torch.autocast(dev, torch.bfloat16)
    seq, batch = a.seq, a.batch
    span = seq - 1                                    # tokens of text in a window; BOS comes before
    per_epoch = (len(tokens) - 1) // span // batch
    steps = int(a.epochs * per_epoch)
    params = sum(p.numel() for p in model.parameters())
    print(f'{params} parameters, {len(tokens)} tokens, {per_epoch} steps per epoch, {steps} steps, {dev}', flush=True)
    gen = torch.Generator().manual_seed(a.seed)
    os.makedirs(a.out, exist_ok=True)
    log = csv.writer(open(os.path.join(a.out, 'loss.csv'), 'w', newline='', buffering=1))
    log.writerow(['step', 'tokens', 'window', 'seconds', 'lr', 'weight_decay', 'train_loss', 'valid_loss'])

    def lr_wd(t):       # t in 0..1; linear decay throughout, the slope's start drops at half way
        if t < 0.5: return a.lr * (1 - t), a.wd
        return a.lr * a.stage2 * (1 - t), 0.0

    def save(loss):
        np.savez_compressed(os.path.join(a.out, 'model.npz'), **model.quantised(),
                            tokenizer=tokenizer, config=json.dumps({**cfg.__dict__, 'step': step, 'tokens': seen, 'valid_loss': round(loss, 5)}))

    best, acc, n_acc, t0, step, seen, order = 1e9, torch.zeros((), device=dev), 0, time.time(), 0, 0, []
    t = 0.0

    def report():
        nonlocal best, n_acc
        model.eval()
        with cast(): vl = nll_windows(model, valid, bos, seq).mean().item()
        model.train()
        tl = (acc / max(1, n_acc)).item(); acc.zero_(); n_acc = 0
        log.writerow([step, seen, seq, f'{time.time() - t0:.1f}', f'{lr:.3e}', wd, f'{tl:.4f}', f'{vl:.4f}'])
        print(f'step {step} tokens {seen} {seen / (time.time() - t0):.0f} tok/s lr {lr:.2e} train {tl:.4f} valid {vl:.4f}', flush=True)
        if not math.isfinite(tl + vl): raise SystemExit('diverged')
        if vl < best: best = vl; save(vl)

    while True:
        # With --minutes the clock sets how much of the schedule has passed, if it is ahead of the steps.
        t = max(seen / (steps * a.batch * (a.seq - 1)), (time.time() - t0) / 60 / a.minutes)
        if t >= 1: break
        if a.seq2 and seq != a.seq2 and t >= 0.8:       # the last fifth in longer windows
            seq, batch, order, best = a.seq2, max(1, a.batch * a.seq // a.seq2), [], 1e9
            span = seq - 1
        if not order:
            shift = int(torch.randint(0, span, (1,), generator=gen))
            starts = torch.arange(shift, len(tokens) - span, span)
            starts = starts[torch.randperm(len(starts), generator=gen)]
            order = list(starts[:len(starts) // batch * batch].view(-1, batch).to(dev).unbind())
        lr, wd = lr_wd(t); lr *= min(1, (step + 1) / a.warmup)
        opts[0].param_groups[0].update(lr=lr, weight_decay=wd)
        opts[1].param_groups[0].update(lr=lr * a.embd_lr / a.lr)
        y = tokens[order.pop()[:, None] + torch.arange(span, device=dev)]
        x = torch.cat([torch.full_like(y[:, :1], bos), y[:, :-1]], 1)
        with cast(): loss = run(x, y).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts: o.step()
        model.zero_grad(set_to_none=True)
        acc += loss.detach(); n_acc += 1; step += 1; seen += y.numel()
        if step % a.eval_every == 0: report()
    report()
    print(f'done: {step} steps, {time.time() - t0:.0f} s, best valid {best:.4f}', flush=True)


if __name__ == '__main__': main()
