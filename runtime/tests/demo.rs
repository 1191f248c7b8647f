//! The demo model, whose weights were really trained, against the float32 reference that `demo/eval.py` wrote: greedy
//! completions and perplexity, the same bits in every way to compute them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sterna::engine::perplexity;
use sterna::engine::sampling::argmax;
use sterna::engine::session::Session;
use sterna::kernels::{Variant, variants};
use sterna::machine::cpu::Machine;
use sterna::model::{MapOptions, Model, Opened};
use sterna::text::Tokenizer;

/// Where the first two logits are closer, either may come first: between PyTorch and us their difference moves by up to 0.07,
/// since float noise turns whole int8 steps.
const NOISE: f64 = 0.1;

/// Windows of the held-out text that every way computes: enough to fill passes of all sizes, since the slowest way is a
/// portable loop with assertions.
const WINDOWS: usize = 2;

/// A way to compute the same thing; no two may differ by a bit. Another way to lay out weights or to propose tokens
/// is another field here.
#[derive(Debug, Clone, Copy)]
struct Way {
    kernels: &'static str,
    threads: usize,
    batch: usize,
}

impl Way {
    /// Every compiled instruction-set level that this CPU runs, with other threads and passes each, and the best of them
    /// with all of these.
    fn all() -> Vec<Way> {
        let features = Machine::detect().features;
        let runs = |variant: &&Variant| {
            let runs = variant.runs_on(&features);
            if !runs {
                println!("SKIP {}, which this CPU cannot run", variant.name);
            }
            runs
        };
        let way = |variant: &Variant, (threads, batch)| Way {
            kernels: variant.name,
            threads,
            batch,
        };
        let sizes = [(1, 512), (2, 128), (3, 7)];
        let running: Vec<&Variant> = variants().iter().filter(runs).collect();
        let best = sizes.map(|sizes| way(running[0], sizes));
        let others = running[1..].iter().zip(sizes.into_iter().cycle());
        best.into_iter()
            .chain(others.map(|(variant, sizes)| way(variant, sizes)))
            .collect()
    }

    fn session(self, model: &Arc<Model>, capacity: usize) -> Session {
        let kernels = variants().iter().find(|variant| variant.name == self.kernels);
        let kernels = kernels.expect("one of the compiled variants");
        Session::new(Arc::clone(model), kernels, self.threads, capacity, self.batch)
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

/// `count` greedy tokens after `prompt`, and the bits of the last logits.
fn complete(way: Way, model: &Arc<Model>, prompt: &[u32], count: usize) -> (Vec<u32>, Vec<u32>) {
    let mut session = way.session(model, prompt.len() + count);
    let mut tokens = vec![argmax(session.feed(prompt).unwrap())];
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
    let (model, tokenizer) = open();
    let reference = reference();
    let (mut steps, mut agreed) = (0, 0);
    for case in reference["greedy"].as_array().unwrap() {
        let text = case["prompt"].as_str().unwrap();
        let (prompt, expected) = (ids(&case["prompt_tokens"]), ids(&case["tokens"]));
        assert_eq!(tokenizer.encode(text, true, true), prompt, "{text:?}");
        let gaps = case["gap"].as_array().unwrap().iter().map(|gap| gap.as_f64().unwrap());
        let unclear = gaps.clone().position(|gap| gap < NOISE).unwrap_or(expected.len());
        let mut first = None;
        for way in Way::all() {
            let ours = complete(way, &model, &prompt, expected.len());
            assert_eq!(ours.0[..unclear], expected[..unclear], "{text:?}, {way:?}");
            assert!(
                *first.get_or_insert_with(|| ours.clone()) == ours,
                "{text:?}: {way:?} gives other bits"
            );
        }
        // Past an unclear step a completion may go elsewhere; fed the reference's own tokens it may not.
        let mut session = Way::all()[0].session(&model, prompt.len() + expected.len());
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
}

#[test]
fn perplexity_is_the_references_and_the_same_in_every_way() {
    let (model, tokenizer) = open();
    let reference = reference();
    let text = fs::read_to_string(demo("heldout.txt")).unwrap();
    let tokens = tokenizer.encode(&text, false, false);
    let context = reference["perplexity"]["context"].as_u64().unwrap() as usize;
    assert_eq!(reference["perplexity"]["tokens"], tokens.len());
    assert_eq!(reference["perplexity"]["bytes"], text.len());
    let windows = &tokens[..WINDOWS * (context - 1)];
    let mut first = None;
    for way in Way::all() {
        let mut session = way.session(&model, context - 1);
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
