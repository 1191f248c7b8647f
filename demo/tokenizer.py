#!/usr/bin/env python3
"""Byte-level BPE of the demo model.

    tokenizer.py CORPUSDIR [--vocab 4096]     trains on CORPUSDIR/train.txt; writes tokenizer.json and {train,valid}.npy (uint16)

Special tokens come last: <|begin_of_text|>, <|end_of_text|>, <|eot_id|>. The pre-tokenizer is Llama 3's expression, the
one that `tokenizer.ggml.pre = llama-bpe` names.
"""
import argparse, json, os
import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PRE = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ['<|begin_of_text|>', '<|end_of_text|>', '<|eot_id|>']


def build(tokens, merges):
    """The tokenizer of a token list and merges, as a GGUF keeps them (special tokens are not parsed from text)."""
    t = Tokenizer(models.BPE({k: i for i, k in enumerate(tokens)}, [tuple(m.split(' ')) for m in merges], ignore_merges=True))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PRE), 'isolated'), pre_tokenizers.ByteLevel(False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return t


def train(text, vocab):
    t = build([], [])
    t.train_from_iterator(text, trainers.BpeTrainer(vocab_size=vocab - len(SPECIALS), min_frequency=2, show_progress=False,
                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), max_token_length=24))
    m = json.loads(t.to_str())['model']
    tokens = sorted(m['vocab'], key=m['vocab'].get) + SPECIALS
    assert len(tokens) == vocab
    return tokens, [x if isinstance(x, str) else ' '.join(x) for x in m['merges']]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('corpus'); ap.add_argument('--vocab', type=int, default=4096)
    a = ap.parse_args()
    read = lambda p: open(os.path.join(a.corpus, p + '.txt'), encoding='utf-8', newline='\n').read().split('\0')
    tokens, merges = train(read('train'), a.vocab)
    with open(os.path.join(a.corpus, 'tokenizer.json'), 'w') as f: json.dump(dict(tokens=tokens, merges=merges), f, ensure_ascii=True)
    t, eos = build(tokens, merges), a.vocab - 2
    for p in ('train', 'valid'):
        docs = read(p); ids = []
        for e in t.encode_batch(docs): ids += e.ids + [eos]
        np.save(os.path.join(a.corpus, p + '.npy'), np.array(ids, np.uint16))
        n = sum(len(d.encode()) for d in docs)
        print(f'{p}: {len(docs)} documents, {n} bytes, {len(ids)} tokens, {n / len(ids):.3f} bytes per token')


if __name__ == '__main__': main()
