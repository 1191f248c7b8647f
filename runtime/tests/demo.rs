//! The demo model, whose weights were really trained, against the float32 reference that `demo/eval.py` wrote: greedy
//! completions and perplexity, the same bits in every way to compute them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::Value;
use sterna::engine::kv::{CacheType, CacheTypes};
use sterna::engine::sampling::argmax;
use sterna::engine::session::Session;
use sterna::engine::{Engine, EngineConfig, Event, Request, Sampling, Speculation, perplexity};
use sterna::kernels::{Variant, variants};
use sterna::machine::cpu::Machine;
use sterna::model::{Layout, MapOptions, Model, Opened, Skipping};
use sterna::text::Tokenizer;

/// Where the first two logits are closer, either may come first: between PyTorch and us their difference moves by up to 0.07,
/// since float noise turns whole int8 steps.
const NOISE: f64 = 0.1;

/// Windows of the held-out text that every way computes: enough to fill passes of all sizes, since the slowest way is a
/// portable loop with assertions.
const WINDOWS: usize = 2;

/// A way to compute the same thing; no two may differ by a bit.
#[derive(Debug, Clone, Copy)]
struct Way {
    kernels: &'static str,
    /// Weights laid out anew for the kernels, or as the file has them.
    repacked: bool,
    /// With every feed-forward laid out for skipping its zeros.
    skipping: bool,
    threads: usize,
    batch: usize,
    /// Tokens are guessed, and verified together.
    guessed: bool,
}

impl Way {
    /// Every compiled instruction-set level that this CPU runs, with both layouts of the weights if it has both; threads
    /// and passes differ from each to the next.
    fn all() -> Vec<Way> {
        let features = Machine::detect().features;
        let mut ways = Vec::new();
        for variant in variants() {
            if !variant.runs_on(&features) {
                println!("SKIP {}, which this CPU cannot run", variant.name);
                continue;
            }
            let all = [(false, false), (true, false), (true, true)];
            let layouts =
                1 + usize::from(variant.packing().is_some()) + usize::from(variant.skipping() != Skipping::default());
            for &(repacked, skipping) in &all[..layouts] {
                let (threads, batch) = [(1, 512), (2, 128), (3, 7)][ways.len() % 3];
                let guessed = ways.len() % 2 == 1;
                let kernels = variant.name;
                ways.push(Way {
                    kernels,
                    repacked,
                    skipping,
                    threads,
                    batch,
                    guessed,
                });
            }
        }
        ways
    }

    fn session(self, capacity: usize) -> Session {
        let (model, kernels) = self.model();
        Session::new(model, kernels, self.threads, capacity, self.batch).unwrap()
    }

    fn model(self) -> (Arc<Model>, &'static Variant) {
        let kernels: &'static Variant = variants().iter().find(|variant| variant.name == self.kernels).unwrap();
        // Weights are re-packed once for a model, so each way has its own.
        let (model, _) = open();
        if let Some(packing) = kernels.packing().filter(|_| self.repacked) {
            let mut layout = Layout::from(packing);
            if self.skipping {
                layout.skipping = vec![kernels.skipping(); model.layers.len()];
            }
            model.repack(None, &layout, &AtomicBool::new(false)).unwrap();
        }
        (model, kernels)
    }

    /// Greedy tokens by an engine that verifies every guess, and how many came true.
    fn guess(self, prompt: &[u32], count: usize) -> (Vec<u32>, usize) {
        let (model, kernels) = self.model();
        let config = EngineConfig {
            threads: self.threads,
            context: 0,
            parallel: 1,
            queue: 0,
            batch: self.batch,
            speculation: Speculation::Always,
            cache: CacheTypes::default(),
        };
        let engine = Engine::start(model, Arc::new(open().1), kernels, config).unwrap();
        let request = Request {
            prompt: prompt.to_vec(),
            sampling: Sampling::greedy(),
            max_tokens: Some(count),
            stop: Vec::new(),
            ignore_eos: true,
            logprobs: None,
        };
        let mut events = engine.submit(request).unwrap();
        let mut tokens = Vec::new();
        loop {
            match events.blocking_recv().unwrap() {
                Event::Token { id, .. } => tokens.push(id),
                Event::Done { stats, .. } => return (tokens, stats.right_tokens),
                Event::Failed(message) => panic!("{message}"),
            }
        }
    }
}

fn demo(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo").join(file)
}

fn reference() -> Value {
    serde_json::from_slice(&fs::read(demo("reference.json")).unwrap()).unwrap()
}

fn open() -> (Arc<Model>, Tokenizer) {
    let Opened { model, gguf, .. } = Model::open(&demo("sterna-demo.gguf"), MapOptions::default()).unwrap();
    let tokenizer = Tokenizer::from_gguf(&gguf, None).unwrap();
    (Arc::new(model), tokenizer)
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |id: &Value| u32::try_from(id.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

/// `count` greedy tokens after `prompt`, and the bits of the last logits. Adds to `right` how many were guessed right.
fn complete(way: Way, prompt: &[u32], count: usize, right: &mut usize) -> (Vec<u32>, Vec<u32>) {
    let mut session = way.session(prompt.len() + count);
    let mut tokens = vec![argmax(session.feed(prompt).unwrap())];
    if way.guessed {
        let (guessed, came_true) = way.guess(prompt, count);
        *right += came_true;
        tokens = guessed;
        session.feed(&tokens[..count - 1]).unwrap();
    }
    while tokens.len() < count {
        let last = tokens[tokens.len() - 1];
        tokens.push(argmax(session.feed(&[last]).unwrap()));
    }
    let logits = session.feed(&tokens[count - 1..]).unwrap();
    let bits = logits.iter().map(|logit| logit.to_bits()).collect();
    (tokens, bits)
}

#[test]
fn greedy_completions_are_the_references_wherever_its_choice_is_clear() {
    let (_, tokenizer) = open();
    let reference = reference();
    let ways = Way::all();
    println!("{ways:#?}");
    let (mut steps, mut agreed, mut right) = (0, 0, 0);
    for case in reference["greedy"].as_array().unwrap() {
        let text = case["prompt"].as_str().unwrap();
        let (prompt, expected) = (ids(&case["prompt_tokens"]), ids(&case["tokens"]));
        assert_eq!(tokenizer.encode(text, true, true), prompt, "{text:?}");
        let gaps = case["gap"].as_array().unwrap().iter().map(|gap| gap.as_f64().unwrap());
        let unclear = gaps.clone().position(|gap| gap < NOISE).unwrap_or(expected.len());
        let mut first = None;
        for &way in &ways {
            let ours = complete(way, &prompt, expected.len(), &mut right);
            assert_eq!(ours.0[..unclear], expected[..unclear], "{text:?}, {way:?}");
            assert!(
                *first.get_or_insert_with(|| ours.clone()) == ours,
                "{text:?}: {way:?} gives other bits"
            );
        }
        // Past an unclear step a completion may go elsewhere; fed the reference's own tokens it may not.
        let mut session = ways[0].session(prompt.len() + expected.len());
        let mut next = argmax(session.feed(&prompt).unwrap());
        for (step, (&token, gap)) in expected.iter().zip(gaps).enumerate() {
            assert!(
                next == token || gap < NOISE,
                "{text:?}: {next} for {token} at step {step}, gap {gap}"
            );
            steps += 1;
            agreed += usize::from(next == token);
            next = argmax(session.feed(&[token]).unwrap());
        }
    }
    println!("{agreed} of {steps} greedy tokens are the reference's");
    assert!(agreed * 100 >= steps * 95, "{agreed} of {steps}");
    assert!(right > 0 || ways.iter().all(|way| !way.guessed), "no guess came true");
}

#[test]
fn perplexity_is_the_references_and_the_same_in_every_way() {
    let (_, tokenizer) = open();
    let reference = reference();
    let text = fs::read_to_string(demo("heldout.txt")).unwrap();
    let tokens = tokenizer.encode(&text, false, false);
    let context = reference["perplexity"]["context"].as_u64().unwrap() as usize;
    assert_eq!(reference["perplexity"]["tokens"], tokens.len());
    assert_eq!(reference["perplexity"]["bytes"], text.len());
    let windows = &tokens[..WINDOWS * (context - 1)];
    let mut first = None;
    for way in Way::all() {
        let mut session = way.session(context - 1);
        let bos = tokenizer.bos().unwrap();
        let score = perplexity::score(&mut session, bos, windows, context, |_| ()).unwrap();
        assert_eq!(*first.get_or_insert(score), score, "{way:?}");
    }
    let ours = first.expect("a variant that runs").nats;
    let nats = reference["window_nats"].as_array().unwrap()[..WINDOWS].iter();
    let expected: f64 = nats.map(|nats| nats.as_f64().unwrap()).sum();
    // In nats a token, as a ratio of perplexities.
    let ratio = ((ours - expected) / windows.len() as f64).exp();
    println!("perplexity over {WINDOWS} windows is {ratio:.6} times the reference's");
    assert!((ratio - 1.0).abs() < 0.005, "{ratio}");
}

#[test]
fn int8_keys_and_values_hardly_change_the_perplexity_and_are_the_same_in_every_way() {
    /// Of two windows.
    const TOKENS: usize = 1022;
    let (_, tokenizer) = open();
    let text = fs::read_to_string(demo("heldout.txt")).unwrap();
    let tokens = tokenizer.encode(&text, false, false);
    let (f16, q8_0) = (CacheType::F16, CacheType::Q8_0);
    let nats = |way: Way, k, v| {
        let mut session = way.session(TOKENS / 2).with_cache(CacheTypes { k, v }).unwrap();
        let bos = tokenizer.bos().unwrap();
        let score = perplexity::score(&mut session, bos, &tokens[..TOKENS], TOKENS / 2 + 1, |_| ());
        score.unwrap().nats
    };
    let ways = Way::all();
    let exact = nats(ways[0], f16, f16);
    for (k, v) in [(q8_0, q8_0), (f16, q8_0), (q8_0, f16)] {
        let ours = nats(ways[0], k, v);
        let ratio = ((ours - exact) / TOKENS as f64).exp();
        println!("keys {k}, values {v}: perplexity is {ratio:.6} times that of f16");
        // Over the whole text 0.0003 and less; two windows have more noise.
        assert!((ratio - 1.0).abs() < 0.005, "{k}, {v}: {ratio}");
        assert_ne!(ours, exact, "{k}, {v}");
        for &way in &ways[1..] {
            assert_eq!(nats(way, k, v), ours, "{k}, {v}: {way:?}");
        }
    }
}
