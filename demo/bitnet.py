"""The bitnet-b1.58 graph in PyTorch: fake-quantised for training, and the same arithmetic in float32 for the reference."""
from dataclasses import dataclass
import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab: int = 4096
    hidden: int = 384
    ffn: int = 1024
    layers: int = 5
    heads: int = 6
    kv_heads: int = 2
    context: int = 1024
    rope_base: float = 10000.0
    eps: float = 1e-5
    dropout: float = 0.0

    def __post_init__(self):
        assert self.hidden % 128 == 0 and self.ffn % 128 == 0, 'I2_S wants whole blocks of 128'
        assert self.hidden % self.heads == 0 and self.heads % self.kv_heads == 0


def ternary(w):
    """Absmean quantisation: (codes in -1/0/+1, scale)."""
    scale = w.abs().mean().clamp(min=1e-8)
    return (w / scale).round().clamp(-1, 1), scale


def act8(x):
    """int8 activations, one scale per token: (integers, s) with x ~ integers / s."""
    s = 127 / x.abs().amax(-1, keepdim=True).float().clamp(min=1e-5)
    return (x * s).round(), s


class RMSNorm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def bitlinear(x, *weights):
    """y_i = W_i x for weights that share an input. Forward works on integers (exact also in bfloat16), the straight-through
    estimator passes gradients as if nothing had been rounded. A weight read from a file comes as (codes, scale)."""
    if isinstance(weights[0], tuple):
        q, s = act8(x)
        return [F.linear(q, codes) / s * scale for codes, scale in weights]
    with torch.no_grad():
        q, s = act8(x)
        cs = [ternary(w) for w in weights]
        out_scale = torch.cat([c[1].expand(len(w)) for c, w in zip(cs, weights)])
    q = q + (x * s - (x * s).detach())
    w = torch.cat([c[0] + ((w - w.detach()) / c[1]) for c, w in zip(cs, weights)])
    y = F.linear(q, w) if not torch.is_autocast_enabled(x.device.type) else F.linear(q.bfloat16(), w.bfloat16())
    return (y / s * out_scale).to(y.dtype).split([len(w) for w in weights], -1)


def rope_table(c, device):
    d = c.hidden // c.heads
    a = torch.arange(c.context, device=device, dtype=torch.float64)[:, None] * c.rope_base ** (-torch.arange(0, d, 2, device=device, dtype=torch.float64) / d)
    return a.cos().float(), a.sin().float()


def rope(x, cos, sin):        # x: batch, heads, time, dim; NeoX pairs (i, i + d/2)
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)


def attention(q, k, v):
    if q.is_cuda: return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    T = q.shape[2]              # on a CPU the plain form, compiled, is faster than the fused one at these lengths
    p = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    p = p + torch.full((T, T), float('-inf'), device=q.device).triu(1)
    return p.softmax(-1).to(v.dtype) @ v


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, d = c, c.hidden // c.heads
        lin = lambda o, i: nn.Parameter(torch.randn(o, i) * i ** -0.5)
        self.attn_norm, self.attn_sub_norm = RMSNorm(c.hidden, c.eps), RMSNorm(c.hidden, c.eps)
        self.ffn_norm, self.ffn_sub_norm = RMSNorm(c.hidden, c.eps), RMSNorm(c.ffn, c.eps)
        self.attn_q, self.attn_k, self.attn_v = lin(c.hidden, c.hidden), lin(d * c.kv_heads, c.hidden), lin(d * c.kv_heads, c.hidden)
        self.attn_output = lin(c.hidden, c.hidden)
        self.ffn_gate, self.ffn_up, self.ffn_down = lin(c.ffn, c.hidden), lin(c.ffn, c.hidden), lin(c.hidden, c.ffn)
        self.drop = nn.Dropout(c.dropout)
        self.stats = None

    def forward(self, x, cos, sin):
        c, (B, T, _) = self.c, x.shape
        q, k, v = bitlinear(self.attn_norm(x), self.attn_q, self.attn_k, self.attn_v)
        heads = lambda t, n: t.view(B, T, n, -1).transpose(1, 2)
        q, k, v = rope(heads(q, c.heads), cos[:T], sin[:T]), rope(heads(k, c.kv_heads), cos[:T], sin[:T]), heads(v, c.kv_heads)
        g = c.heads // c.kv_heads
        k, v = (t.repeat_interleave(g, 1) for t in (k, v))
        o = attention(q, k, v).transpose(1, 2).reshape(B, T, c.hidden)
        x = x + self.drop(bitlinear(self.attn_sub_norm(o), self.attn_output)[0])
        gate, up = bitlinear(self.ffn_norm(x), self.ffn_gate, self.ffn_up)
        h = self.ffn_sub_norm(F.relu(gate).square() * up)
        if self.stats is not None: self.stats.append(((gate <= 0).float().mean(-1), (act8(h)[0] == 0).float().mean(-1)))
        return x + self.drop(bitlinear(h, self.ffn_down)[0])


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.token_embd = nn.Parameter(torch.randn(c.vocab, c.hidden) * 0.02)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.output_norm = RMSNorm(c.hidden, c.eps)
        self.drop = nn.Dropout(c.dropout)
        cos, sin = rope_table(c, 'cpu')
        self.register_buffer('cos', cos, persistent=False); self.register_buffer('sin', sin, persistent=False)

    def forward(self, ids, targets=None):
        x = self.drop(F.embedding(ids, self.token_embd))
        for b in self.blocks: x = b(x, self.cos, self.sin)
        logits = F.linear(self.output_norm(x), self.token_embd).float()
        if targets is None: return logits
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), reduction='none').view_as(targets)

    def load(self, w):
        """Takes the weights of a model file: {name: array, or (codes, scale)}, all float32."""
        t = lambda a: torch.from_numpy(a.copy())
        self.token_embd.data, self.output_norm.weight.data = t(w['token_embd.weight']), t(w['output_norm.weight'])
        for i, b in enumerate(self.blocks):
            for n in ('attn_norm', 'attn_sub_norm', 'ffn_norm', 'ffn_sub_norm'): getattr(b, n).weight.data = t(w[f'blk.{i}.{n}.weight'])
            for n in ('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'):
                codes, scale = w[f'blk.{i}.{n}.weight']
                delattr(b, n); setattr(b, n, (t(codes), torch.tensor(scale)))
        return self.eval()

    def quantised(self):
        """What a model file holds: ternary codes (int8) and scale of each linear, f16 embedding, f32 norms."""
        out = {'token_embd': self.token_embd.detach().half(), 'output_norm': self.output_norm.weight.detach()}
        for i, b in enumerate(self.blocks):
            for n in ('attn_norm', 'attn_sub_norm', 'ffn_norm', 'ffn_sub_norm'): out[f'blk.{i}.{n}'] = getattr(b, n).weight.detach()
            for n in ('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down'):
                codes, scale = ternary(getattr(b, n).detach())
                out[f'blk.{i}.{n}'], out[f'blk.{i}.{n}.scale'] = codes.to(torch.int8), scale
        return {k: v.cpu().numpy() for k, v in out.items()}


def nll_windows(model, ids, bos, context, batch=8):
    """Per-token NLL of a token sequence: consecutive windows of context - 1 tokens, each after a BOS that is not scored."""
    out, n = [], context - 1
    full = len(ids) // n * n
    groups = [ids[:full].view(-1, n)] if full else []
    if len(ids) > full: groups.append(ids[full:].view(1, -1))
    for g in groups:
        for w in g.split(batch):
            inp = torch.cat([torch.full_like(w[:, :1], bos), w[:, :-1]], 1)
            with torch.no_grad(): out.append(model(inp, w).float().reshape(-1))
    return torch.cat(out)
