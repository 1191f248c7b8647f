//! The engine through its own door, on a tiny model made by hand with the vocabulary of the nano test model.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::engine::kv::CacheTypes;
use crate::engine::session::Session;
use crate::engine::{Engine, Logprobs, Sampling, StartError, testing};
use crate::model::{MapOptions, Model};
use tokio::sync::mpsc::UnboundedReceiver;

mod guesses;
mod logprobs;

/// Vocabulary of the model by hand: all of them tokens of plain text.
const VOCAB: usize = 40;

fn tokenizer() -> Arc<Tokenizer> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf");
    let opened = Model::open(&path, MapOptions::default()).unwrap();
    Arc::new(Tokenizer::from_gguf(&opened.gguf, None).unwrap())
}

fn start(model: Arc<Model>, parallel: usize, queue: usize, batch: usize) -> Engine {
    start_guessing(Speculation::Always, model, parallel, queue, batch)
}

fn start_guessing(speculation: Speculation, model: Arc<Model>, parallel: usize, queue: usize, batch: usize) -> Engine {
    start_with(tokenizer(), speculation, model, parallel, queue, batch)
}

fn start_with(
    tokenizer: Arc<Tokenizer>,
    speculation: Speculation,
    model: Arc<Model>,
    parallel: usize,
    queue: usize,
    batch: usize,
) -> Engine {
    let config = EngineConfig {
        threads: 1,
        context: 0,
        parallel,
        queue,
        batch,
        speculation,
        cache: CacheTypes::default(),
    };
    Engine::start(model, tokenizer, testing::kernels(), config).unwrap()
}

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request {
        prompt: prompt.to_vec(),
        sampling: Sampling::greedy(),
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        ignore_eos: true,
        logprobs: None,
    }
}

/// What a request came to.
#[derive(Debug)]
struct Outcome {
    tokens: Vec<u32>,
    logprobs: Vec<Logprobs>,
    text: String,
    end: Result<(FinishReason, Stats), String>,
}

impl Outcome {
    fn reason(&self) -> FinishReason {
        self.end.as_ref().unwrap().0
    }
}

fn outcome(mut events: UnboundedReceiver<Event>) -> Outcome {
    let (mut tokens, mut all_logprobs, mut all) = (Vec::new(), Vec::new(), String::new());
    loop {
        let end = match events.blocking_recv().expect("Done or Failed comes last") {
            Event::Token { id, text, logprobs } => {
                tokens.push(id);
                all_logprobs.extend(logprobs);
                all += &text;
                continue;
            }
            Event::Done { reason, text, stats } => {
                all += &text;
                Ok((reason, stats))
            }
            Event::Failed(failure) => Err(failure.to_string()),
        };
        assert!(events.blocking_recv().is_none(), "nothing comes after the end");
        return Outcome {
            tokens,
            logprobs: all_logprobs,
            text: all,
            end,
        };
    }
}

/// Greedy tokens by a session: what the engine must give, whatever else it is doing.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = Session::new(testing::model(), testing::kernels(), 1, 64, 64).unwrap();
    let mut next = crate::engine::sampling::argmax(session.feed(prompt).unwrap());
    let mut tokens = vec![next];
    while tokens.len() < count {
        next = crate::engine::sampling::argmax(session.feed(&[next]).unwrap());
        tokens.push(next);
    }
    tokens
}

#[test]
fn requests_side_by_side_get_what_they_would_get_alone() {
    let prompts: Vec<Vec<u32>> = (0..7)
        .map(|i| (0..3 + 5 * i).map(|t| (t * 7 + i) % VOCAB as u32).collect())
        .collect();
    for (parallel, batch) in [(1, 64), (3, 4), (8, 1), (8, 16)] {
        let engine = start(testing::model(), parallel, 7, batch);
        let receivers: Vec<_> = prompts.iter().map(|p| engine.submit(request(p, 12)).unwrap()).collect();
        for (prompt, receiver) in prompts.iter().zip(receivers) {
            let outcome = outcome(receiver);
            assert_eq!(
                outcome.tokens,
                expected(prompt, 12),
                "{parallel} in parallel, batches of {batch}"
            );
            let (reason, stats) = outcome.end.unwrap();
            assert_eq!(reason, FinishReason::Length);
            assert_eq!((stats.prompt_tokens, stats.generated_tokens), (prompt.len(), 12));
            assert!(stats.prefill_ms > 0.0 && stats.decode_ms > 0.0);
        }
        assert_eq!(engine.load(), (0, 0));
    }
}

#[test]
fn the_context_is_the_longest_that_a_sequence_gets() {
    let engine = start(testing::model(), 1, 1, 64);
    let mut unlimited = request(&[1, 2, 3, 4], 0);
    unlimited.max_tokens = None;
    let outcome = outcome(engine.submit(unlimited).unwrap());
    assert_eq!(outcome.tokens.len(), 60);
    assert_eq!(outcome.reason(), FinishReason::Length);
    let error = engine.submit(request(&[1; 64], 1)).unwrap_err();
    assert!(matches!(
        error,
        SubmitError::PromptTooLong {
            tokens: 64,
            context: 64
        }
    ));
    assert_eq!(
        self::outcome(engine.submit(request(&[1; 63], 9)).unwrap()).tokens.len(),
        1
    );
}

#[test]
fn no_tokens_are_wanted_and_none_are_given() {
    let engine = start(testing::model(), 1, 1, 64);
    let outcome = outcome(engine.submit(request(&[1], 0)).unwrap());
    assert_eq!((outcome.tokens.len(), outcome.reason()), (0, FinishReason::Length));
}

#[test]
fn a_stop_text_ends_the_generation_before_it() {
    let engine = start(testing::model(), 1, 1, 64);
    let whole = outcome(engine.submit(request(&[1, 2], 20)).unwrap()).text;
    let stop: String = whole.chars().skip(5).take(3).collect();
    let mut stopped = request(&[1, 2], 20);
    stopped.stop = vec![stop.clone()];
    let outcome = outcome(engine.submit(stopped).unwrap());
    assert_eq!(outcome.reason(), FinishReason::Stop);
    assert_eq!(outcome.text, whole.split(&stop).next().unwrap());
}

#[test]
fn what_cannot_be_done_is_refused_at_once() {
    let engine = start(testing::model(), 1, 1, 64);
    assert_eq!(engine.submit(request(&[], 1)).unwrap_err(), SubmitError::EmptyPrompt);
    let error = engine.submit(request(&[1, VOCAB as u32], 1)).unwrap_err();
    assert_eq!(error, SubmitError::UnknownToken { id: 40, vocab: 40 });
    let mut hot = request(&[1], 1);
    hot.sampling.temperature = f32::INFINITY;
    assert!(matches!(engine.submit(hot).unwrap_err(), SubmitError::Sampling(_)));
}

/// A request that keeps the engine busy, with the long context until it is cancelled.
fn endless(engine: &Engine) -> UnboundedReceiver<Event> {
    let mut events = engine.submit(request(&[1], usize::MAX)).unwrap();
    assert!(matches!(events.blocking_recv(), Some(Event::Token { .. })));
    events
}

#[test]
fn a_full_queue_refuses_and_a_dropped_receiver_makes_room() {
    let engine = start(testing::model_with_long_context(), 1, 1, 64);
    let running = endless(&engine);
    let waiting = engine.submit(request(&[2], 1)).unwrap();
    assert_eq!(engine.load(), (1, 1));
    assert_eq!(
        engine.submit(request(&[3], 1)).unwrap_err(),
        SubmitError::QueueFull { waiting: 1 }
    );
    drop(waiting);
    let instead = engine.submit(request(&[3], 1)).unwrap();
    drop(running);
    assert_eq!(outcome(instead).tokens, expected(&[3], 1));
}

#[test]
fn stopping_finishes_what_is_there() {
    let engine = start(testing::model(), 1, 2, 64);
    let receivers = [endless(&engine), engine.submit(request(&[2], 3)).unwrap()];
    engine.stop(Duration::from_secs(60));
    assert_eq!(engine.submit(request(&[1], 1)).unwrap_err(), SubmitError::Stopping);
    for receiver in receivers {
        assert_eq!(outcome(receiver).reason(), FinishReason::Length);
    }
}

#[test]
fn when_the_grace_is_over_requests_end_with_a_sentence() {
    let engine = start(testing::model_with_long_context(), 1, 2, 64);
    let receivers = [endless(&engine), engine.submit(request(&[2], 63)).unwrap()];
    engine.stop(Duration::ZERO);
    for receiver in receivers {
        assert_eq!(outcome(receiver).end.unwrap_err(), "the server is shutting down");
    }
    assert!(engine.healthy());
}

#[test]
fn dropping_the_last_handle_stops_the_engine() {
    let engine = start(testing::model_with_long_context(), 1, 2, 64);
    let events = endless(&engine);
    drop(engine.clone());
    drop(engine);
    assert!(outcome(events).end.is_err());
}

#[test]
fn a_non_finite_value_fails_the_request_and_not_the_engine() {
    let engine = start(testing::model_with_scale(f32::MAX), 1, 1, 64);
    let message = outcome(engine.submit(request(&[1], 1)).unwrap()).end.unwrap_err();
    assert!(
        message.starts_with("the model produced a non-finite value"),
        "{message}"
    );
    assert!(engine.healthy());
}

#[test]
fn a_panic_fails_the_requests_and_later_ones() {
    // A layer of the wrong width, which the loader would not let through: the kernels assert it.
    let engine = start(testing::model_with_a_short_layer(), 1, 1, 64);
    let message = outcome(engine.submit(request(&[1], 1)).unwrap()).end.unwrap_err();
    assert!(message.contains("internal error"), "{message}");
    assert!(!engine.healthy());
    let error = engine.submit(request(&[1], 1)).unwrap_err();
    assert_eq!(error, SubmitError::Broken { reason: message });
}

#[test]
fn a_file_that_changes_while_in_use_fails_the_requests() {
    let path = std::env::temp_dir().join(format!("sterna-lost-{}.gguf", std::process::id()));
    std::fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/tests/data/nano-i2_s.gguf"),
        &path,
    )
    .unwrap();
    let model = Arc::new(Model::open(&path, MapOptions::default()).unwrap().model);
    let engine = start(model, 1, 1, 64);
    std::fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let message = outcome(engine.submit(request(&[1], 1)).unwrap()).end.unwrap_err();
    std::fs::remove_file(&path).unwrap();
    assert!(
        message.starts_with("the model file was changed or cut short"),
        "{message}"
    );
    assert!(!engine.healthy());
}

#[test]
fn a_cache_larger_than_memory_is_refused_at_start() {
    let config = EngineConfig {
        threads: 1,
        context: 0,
        parallel: 1 << 40,
        queue: 0,
        batch: 1,
        speculation: Speculation::Never,
        cache: CacheTypes::default(),
    };
    let error = Engine::start(testing::model(), tokenizer(), testing::kernels(), config)
        .err()
        .unwrap();
    assert!(matches!(error, StartError::Memory(_)), "{error}");
}
