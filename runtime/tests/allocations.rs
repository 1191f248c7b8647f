//! What generating a token allocates: nothing but the event that tells of it.
#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sterna::engine::forward::{Forward, Row};
use sterna::engine::head::Need;
use sterna::engine::kv::{CacheTypes, KvCache};
use sterna::engine::{Engine, EngineConfig, Event, Request, Sampling, Speculation};
use sterna::kernels::{Variant, choose};
use sterna::machine::cpu::Machine;
use sterna::model::{MapOptions, Model, Opened};
use sterna::text::Tokenizer;

struct Counting;

/// By any thread: those of a pool as well.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations while `job` runs.
fn allocations(job: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.load(Relaxed);
    job();
    ALLOCATIONS.load(Relaxed) - before
}

/// The nano model, which has a context of 512.
fn open() -> Opened {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf");
    Model::open(&path, MapOptions::default()).unwrap()
}

fn kernels() -> &'static Variant {
    choose(&Machine::detect().features, "auto").unwrap()
}

/// In one test, since others beside it would be counted with it.
#[test]
fn a_token_allocates_nothing_but_its_event() {
    for threads in [1, 2] {
        passes(threads);
        scheduler(threads);
    }
}

/// As the weights are in the file, and re-packed, before a block of the cache ends and after.
fn passes(threads: usize) {
    let model = Arc::new(open().model);
    let mut caches = [KvCache::new(&model.config, CacheTypes::default(), 512)];
    let mut forward = Forward::new(Arc::clone(&model), kernels(), threads);
    for (repacked, first) in [(false, 100), (true, 228)] {
        if repacked {
            let never = AtomicBool::new(false);
            if let Some(packing) = kernels().packing() {
                model.repack(None, &packing.into(), &never).unwrap();
            }
            model.code_head(None, &never).unwrap();
        }
        for need in [Need::All, Need::Candidates { top: 40, margin: 1.0 }] {
            let row = |position, need| Row {
                cache: 0,
                position,
                token: position as u32 * 7 % 1000,
                need,
            };
            let prompt: Vec<Row> = (0..first).map(|position| row(position, Need::None)).collect();
            forward.pass(&mut caches, &prompt).unwrap();
            let mut token = |position| {
                let output = forward.pass(&mut caches, &[row(position, need)]).unwrap();
                assert!(output.logits(0).is_ok());
            };
            // So many that every thread has taken a piece of each product by then.
            (0..300).for_each(|_| token(first));
            let count = allocations(|| (first..first + 64).for_each(&mut token));
            assert_eq!(count, 0, "{threads} threads, re-packed: {repacked}, {need:?}");
        }
    }
}

/// A text a token that has one, and room for events. Of two answers, one 128 tokens longer than the other, so that what each of them takes once cancels out.
fn scheduler(threads: usize) {
    let Opened { model, gguf, .. } = open();
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf, None).unwrap());
    let config = EngineConfig {
        threads,
        context: 0,
        parallel: 1,
        queue: 0,
        batch: 64,
        speculation: Speculation::Never,
        cache: CacheTypes::default(),
    };
    let engine = Engine::start(Arc::new(model), tokenizer, kernels(), config).unwrap();
    let answer = |request: &Request, tokens| {
        let max_tokens = Some(tokens);
        let request = Request {
            max_tokens,
            ..request.clone()
        };
        let mut events = engine.submit(request).unwrap();
        let (mut received, mut texts) = (0, 0);
        while let Some(event) = events.blocking_recv() {
            if let Event::Token { text, .. } = event {
                received += 1;
                texts += usize::from(!text.is_empty());
            }
        }
        assert_eq!(received, tokens);
        // Its sequence is dropped by then.
        while engine.load() != (0, 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        texts
    };
    let greedy = Request {
        prompt: vec![1024, 791, 272],
        sampling: Sampling::greedy(),
        max_tokens: None,
        // Texts of the nano model end as this one begins, so that something is held back again and again.
        stop: vec!["e that never goes on like this".to_owned()],
        ignore_eos: true,
        logprobs: None,
    };
    let drawn = Request {
        sampling: Sampling {
            temperature: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            seed: 7,
        },
        stop: Vec::new(),
        ..greedy.clone()
    };
    for request in [greedy, drawn] {
        (0..3).for_each(|_| _ = answer(&request, 400));
        let [less, more] = [200, 328].map(|tokens| {
            let mut texts = 0;
            (allocations(|| texts = answer(&request, tokens)), texts)
        });
        let (count, texts) = (more.0.saturating_sub(less.0), more.1 - less.1);
        // The channel has room for 32 events at a time.
        assert!(
            texts > 30 && count <= texts + 128 / 32,
            "{threads} threads: {count}, for {texts} texts"
        );
    }
}
