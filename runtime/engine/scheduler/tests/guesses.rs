//! Guesses change nothing but the number of passes.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::model::testing::{V, small_model};

/// All requests at once; what each came to, in their order.
pub fn run(engine: &Engine, requests: &[Request]) -> Vec<Outcome> {
    let submit = |request: &Request| engine.submit(request.clone()).unwrap();
    let receivers: Vec<_> = requests.iter().map(submit).collect();
    receivers.into_iter().map(outcome).collect()
}

/// Everything of an outcome that guesses must not change.
pub fn essence(outcome: &Outcome) -> (&[u32], &str, FinishReason, [usize; 2]) {
    let (reason, stats) = outcome.end.as_ref().unwrap();
    let counts = [stats.prompt_tokens, stats.generated_tokens];
    (&outcome.tokens, &outcome.text, *reason, counts)
}

/// Guesses that were verified, and those that came true.
pub fn guesses(outcomes: &[Outcome]) -> (usize, usize) {
    let stats = outcomes.iter().map(|outcome| &outcome.end.as_ref().unwrap().1);
    stats.fold((0, 0), |(guessed, right), stats| {
        (guessed + stats.guessed_tokens, right + stats.right_tokens)
    })
}

/// A few tokens over and over, or any.
pub fn prompt() -> impl Strategy<Value = Vec<u32>> {
    let any_of = |tokens: u32, most| prop::collection::vec(0..tokens, 1..most);
    prop_oneof![
        any_of(VOCAB as u32, 30),
        any_of(3, 30),
        (any_of(VOCAB as u32, 8), 1usize..5).prop_map(|(tokens, times)| tokens.repeat(times)),
    ]
}

pub fn sampling() -> impl Strategy<Value = Sampling> {
    let sampled = |top_k, top_p| {
        any::<u64>().prop_map(move |seed| Sampling {
            temperature: 0.8,
            top_k,
            top_p,
            min_p: 0.0,
            seed,
        })
    };
    prop_oneof![Just(Sampling::greedy()), sampled(2, 1.0), sampled(0, 0.7)]
}

#[test]
fn any_requests_get_the_same_with_guesses_and_without() {
    let request = (prompt(), sampling(), prop::option::of(1usize..40), 0usize..30);
    let cases = (
        prop::collection::vec(request, 1..6),
        1usize..6,
        prop::sample::select(vec![1, 3, 64]),
    );
    let (guessed, right) = (Cell::new(0), Cell::new(0));
    let mut runner = TestRunner::new(Config::with_cases(24));
    let never = start_guessing(Speculation::Never, testing::model(), 1, 100, 64);
    runner
        .run(&cases, |(requests, parallel, batch)| {
            let to_request = |(prompt, sampling, max_tokens, _): &(Vec<u32>, Sampling, Option<usize>, usize)| Request {
                sampling: sampling.clone(),
                max_tokens: *max_tokens,
                ..self::request(prompt, 0)
            };
            let mut all: Vec<Request> = requests.iter().map(to_request).collect();
            // And again, with a stop text from the middle of what came out.
            for (i, outcome) in run(&never, &all).iter().enumerate() {
                let stop = vec![outcome.text.chars().skip(requests[i].3).take(2).collect()];
                all.push(Request { stop, ..all[i].clone() });
            }
            let plain = run(&never, &all);
            prop_assert_eq!(guesses(&plain), (0, 0));
            for speculation in [Speculation::Always, Speculation::WherePaying] {
                let engine = start_guessing(speculation, testing::model(), parallel, 100, batch);
                let outcomes = run(&engine, &all);
                for ((outcome, plain), request) in outcomes.iter().zip(&plain).zip(&all) {
                    prop_assert_eq!(essence(outcome), essence(plain), "{:?}", request);
                }
                let counts = guesses(&outcomes);
                prop_assert!(counts.1 <= counts.0);
                guessed.set(guessed.get() + counts.0);
                right.set(right.get() + counts.1);
            }
            Ok(())
        })
        .unwrap();
    let (guessed, right) = (guessed.get(), right.get());
    assert!(right > 50 && right + 50 < guessed, "{right} of {guessed}");
}

/// Tokens of bytes, of which `eos` ends a text.
pub fn tokenizer_ending_with(eos: u32) -> Arc<Tokenizer> {
    let (_, gguf) = small_model()
        .set("tokenizer.ggml.eos_token_id", V::U32(eos))
        .load()
        .unwrap();
    Arc::new(Tokenizer::from_gguf(&gguf, None).unwrap())
}

/// Tokens of an echo.
const ECHO: usize = 16;

/// A model without memory, whose layers add nothing: what follows depends on the last token and the sampler's next number. So after
/// `prompt` the sampling draws tokens that follow its last token in it already; all of them are different.
fn echo() -> (Arc<Model>, Sampling, Vec<u32>, Vec<u32>) {
    let model = testing::model_with_scale(0.0);
    let found = (0..).find_map(|seed| {
        let sampling = Sampling {
            temperature: 1e4,
            seed,
            ..Sampling::greedy()
        };
        let mut sampler = Sampler::new(sampling.clone(), VOCAB);
        let mut session = Session::new(model.clone(), testing::kernels(), 1, 64, 64).unwrap();
        let mut tokens = vec![1];
        for i in 0..ECHO {
            let next = session.sample(&tokens[i..], &mut sampler).unwrap();
            if tokens.contains(&next) {
                return None;
            }
            tokens.push(next);
        }
        Some((sampling, [&tokens[..], &[1]].concat(), tokens[1..].to_vec()))
    });
    let (sampling, prompt, echo) = found.expect("among infinitely many");
    (model, sampling, prompt, echo)
}

#[test]
fn the_end_of_a_text_is_the_end_inside_of_guesses_too() {
    let (model, sampling, prompt, echo) = echo();
    for end in 1..=8 {
        for (speculation, right) in [(Speculation::Never, 0), (Speculation::Always, end - 1)] {
            let engine = start_with(tokenizer_ending_with(echo[end]), speculation, model.clone(), 1, 1, 64);
            let request = Request {
                sampling: sampling.clone(),
                ignore_eos: false,
                ..request(&prompt, 30)
            };
            let outcome = outcome(engine.submit(request).unwrap());
            assert_eq!(
                (&outcome.tokens[..], outcome.reason()),
                (&echo[..end], FinishReason::Eos)
            );
            assert_eq!(outcome.end.unwrap().1.right_tokens, right);
        }
    }
}

#[test]
fn right_guesses_spare_passes_up_to_the_last_token() {
    let (model, sampling, prompt, echo) = echo();
    let engine = start(model, 1, 1, 64);
    for max_tokens in 1..=ECHO {
        let request = Request {
            sampling: sampling.clone(),
            ..request(&prompt, max_tokens)
        };
        let outcome = outcome(engine.submit(request).unwrap());
        assert_eq!(
            (&outcome.tokens[..], outcome.reason()),
            (&echo[..max_tokens], FinishReason::Length)
        );
        let stats = outcome.end.unwrap().1;
        // A token comes of the prompt's pass, one of each that follows, and all others were guessed.
        let passes = (max_tokens - 1).div_ceil(8);
        assert_eq!(stats.right_tokens, max_tokens - 1 - passes);
        assert_eq!(stats.guessed_tokens, stats.right_tokens);
    }
}

/// What wrong guesses leave in the cache must not be seen by what comes after: every token here depends on all before it.
#[test]
fn wrong_guesses_leave_nothing_behind() {
    let engine = start(testing::model(), 1, 1, 64);
    for i in 0..8 {
        // Repeats itself up to a token that the model does not say.
        let prompt: Vec<u32> = [1, 2, 3, 4, 5, 6, 7].iter().cycle().map(|t| t + i).take(20).collect();
        let mut hot = request(&prompt, 40);
        hot.sampling = Sampling {
            temperature: 3.0,
            seed: i.into(),
            ..Sampling::greedy()
        };
        let mut session = Session::new(testing::model(), testing::kernels(), 1, 64, 64).unwrap();
        let mut sampler = Sampler::new(hot.sampling.clone(), VOCAB);
        let mut tokens = vec![session.sample(&prompt, &mut sampler).unwrap()];
        while tokens.len() < 40 {
            tokens.push(session.sample(&tokens[tokens.len() - 1..], &mut sampler).unwrap());
        }
        let outcome = outcome(engine.submit(hot).unwrap());
        assert_eq!(outcome.tokens, tokens);
        let stats = outcome.end.unwrap().1;
        assert!(stats.guessed_tokens > stats.right_tokens + 20, "{stats:?}");
    }
}

#[test]
fn a_request_that_is_cancelled_among_guesses_disturbs_no_other() {
    let engine = start(testing::model_with_long_context(), 3, 3, 64);
    let prompt = [5, 6, 7].repeat(4);
    for _ in 0..5 {
        let cancelled = [endless(&engine), endless(&engine)];
        let stays = engine.submit(request(&prompt, 40)).unwrap();
        drop(cancelled);
        assert_eq!(outcome(stays).tokens, expected(&prompt, 40));
    }
}
