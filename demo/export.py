#!/usr/bin/env python3
"""Writes a trained checkpoint as a GGUF v3 file with I2_S weights (numpy only; the same checkpoint gives the same bytes).

    export.py model.npz sterna-demo.gguf
    export.py --check           exports tiny.npz in memory and compares its SHA-256 with tiny.sha256
"""
import hashlib, json, os, struct, sys
import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
U32, I32, F32, BOOL, STR, ARR = 4, 5, 6, 7, 8, 9
TYPE = dict(f32=0, f16=1, i2_s=36)
# A base model: the messages are simply joined, and the answer continues the last one.
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def text(s): b = s.encode(); return struct.pack('<Q', len(b)) + b


def kv(key, typ, v):
    head = text(key) + struct.pack('<I', typ)
    if typ == STR: return head + text(v)
    if typ == BOOL: return head + bytes([v])
    if typ == ARR:
        elem, vals = v
        return head + struct.pack('<IQ', elem, len(vals)) + (b''.join(map(text, vals)) if elem == STR else np.asarray(vals, '<f4' if elem == F32 else '<i4').tobytes())
    return head + struct.pack({U32: '<I', I32: '<i', F32: '<f'}[typ], v)


def i2_s(codes, scale):
    """Blocks of 128 codes (0, 1, 2 for -1, 0, +1) in 32 bytes, the first 32 in the high bits; the scale follows all of them."""
    assert codes.shape[1] % 128 == 0 and np.isin(codes, (-1, 0, 1)).all()
    c = (codes + 1).astype(np.uint8).reshape(-1, 4, 32)
    return (c[:, 0] << 6 | c[:, 1] << 4 | c[:, 2] << 2 | c[:, 3]).tobytes() + struct.pack('<f', scale) + bytes(28)


def gguf(ckpt):
    z = np.load(ckpt)
    c, tok = json.loads(str(z['config'])), json.loads(str(z['tokenizer']))
    A, V, tokens = 'bitnet-b1.58', c['vocab'], tok['tokens']
    meta = [kv('general.architecture', STR, A), kv('general.name', STR, 'Sterna demo'), kv('general.license', STR, 'MIT OR Apache-2.0'),
            kv(A + '.vocab_size', U32, V), kv(A + '.context_length', U32, c['context']), kv(A + '.embedding_length', U32, c['hidden']),
            kv(A + '.block_count', U32, c['layers']), kv(A + '.feed_forward_length', U32, c['ffn']),
            kv(A + '.rope.dimension_count', U32, c['hidden'] // c['heads']), kv(A + '.attention.head_count', U32, c['heads']),
            kv(A + '.attention.head_count_kv', U32, c['kv_heads']), kv(A + '.attention.layer_norm_rms_epsilon', F32, c['eps']),
            kv(A + '.rope.freq_base', F32, c['rope_base']), kv('general.file_type', U32, 40),
            kv('tokenizer.ggml.model', STR, 'gpt2'), kv('tokenizer.ggml.pre', STR, 'llama-bpe'),
            kv('tokenizer.ggml.tokens', ARR, (STR, tokens)), kv('tokenizer.ggml.scores', ARR, (F32, [0.0] * V)),
            kv('tokenizer.ggml.token_type', ARR, (I32, [1] * (V - 3) + [3] * 3)), kv('tokenizer.ggml.merges', ARR, (STR, tok['merges'])),
            kv('tokenizer.ggml.bos_token_id', U32, V - 3), kv('tokenizer.ggml.eos_token_id', U32, V - 2),
            kv('tokenizer.ggml.eot_token_id', U32, V - 1), kv('tokenizer.ggml.padding_token_id', U32, V - 2),
            kv('tokenizer.ggml.add_bos_token', BOOL, True), kv('tokenizer.chat_template', STR, TEMPLATE),
            kv('general.quantization_version', U32, 2)]
    tensors = [('token_embd', 'f16'), ('output_norm', 'f32')]
    for i in range(c['layers']):
        tensors += [(f'blk.{i}.{n}', 'f32' if n.endswith('norm') else 'i2_s') for n in
                    ('attn_norm', 'ffn_down', 'ffn_gate', 'ffn_up', 'ffn_norm', 'attn_k', 'attn_output', 'attn_q', 'attn_v', 'attn_sub_norm', 'ffn_sub_norm')]
    info, data = b'', bytearray()
    for name, t in tensors:
        w = z[name]
        dims = w.shape[::-1]
        info += text(name + '.weight') + struct.pack(f'<I{len(dims)}Q', len(dims), *dims) + struct.pack('<IQ', TYPE[t], len(data))
        data += i2_s(w, float(z[name + '.scale'])) if t == 'i2_s' else w.astype('<f4' if t == 'f32' else '<f2').tobytes()
        data += bytes(-len(data) % 32)
    head = b'GGUF' + struct.pack('<IQQ', 3, len(tensors), len(meta)) + b''.join(meta) + info
    return head + bytes(-len(head) % 32) + bytes(data)


def main():
    if sys.argv[1:] == ['--check']:
        got, want = hashlib.sha256(gguf(os.path.join(HERE, 'tiny.npz'))).hexdigest(), open(os.path.join(HERE, 'tiny.sha256')).read().split()[0]
        print(f'tiny.npz exports to {got}: ' + ('as committed' if got == want else f'{want} expected'))
        raise SystemExit(got != want)
    if len(sys.argv) != 3: raise SystemExit(__doc__)
    b = gguf(sys.argv[1])
    with open(sys.argv[2], 'wb') as f: f.write(b)
    print(f'{sys.argv[2]}: {len(b)} bytes, sha256 {hashlib.sha256(b).hexdigest()}')


if __name__ == '__main__': main()
