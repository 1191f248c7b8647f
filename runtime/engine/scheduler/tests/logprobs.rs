//! Log-probabilities are those of the logits that a token was chosen from, and change no token.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::guesses::{essence, guesses, prompt, run, sampling};
use super::*;
use crate::engine::Logprobs;

/// More tokens than the model by hand has: the coarse head finds few of them worth a second look.
const MANY: usize = 700;

/// What the logits say of `tokens` after `prompt`, each fed alone.
fn of_logits(model: &Arc<Model>, prompt: &[u32], tokens: &[u32], top: usize) -> Vec<Logprobs> {
    let mut session = Session::new(Arc::clone(model), testing::kernels(), 1, 64, 64).unwrap();
    let mut fed = prompt;
    let mut all = Vec::new();
    for token in tokens {
        all.push(Logprobs::new(session.feed(fed).unwrap(), *token, top));
        fed = std::slice::from_ref(token);
    }
    all
}

#[test]
fn any_requests_get_the_same_tokens_with_the_log_probabilities_of_their_logits() {
    let model = testing::model_with_f16_head(MANY, |_| {});
    let whole = start_with(tokenizer(), Speculation::Never, Arc::clone(&model), 1, 100, 64);
    let coded = testing::model_with_f16_head(MANY, |_| {});
    coded.code_head(None, &AtomicBool::new(false)).unwrap();
    let request = (prompt(), sampling(), 1usize..30, prop::option::of(0usize..6));
    let cases = (prop::collection::vec(request, 1..5), 1usize..4);
    let (right, asked) = (Cell::new(0), Cell::new(0));
    TestRunner::new(Config::with_cases(24))
        .run(&cases, |(requests, parallel)| {
            let to_request = |(prompt, sampling, max_tokens, _): &(Vec<u32>, Sampling, usize, Option<usize>)| Request {
                sampling: sampling.clone(),
                ..self::request(prompt, *max_tokens)
            };
            let silent: Vec<Request> = requests.iter().map(to_request).collect();
            let expected = run(&whole, &silent);
            let asking = silent.iter().zip(&requests).map(|(request, &(.., logprobs))| Request {
                logprobs,
                ..request.clone()
            });
            let asking: Vec<Request> = asking.collect();
            for speculation in [Speculation::Never, Speculation::Always] {
                let engine = start_with(tokenizer(), speculation, Arc::clone(&coded), parallel, 100, 64);
                let outcomes = run(&engine, &asking);
                right.set(right.get() + guesses(&outcomes).1);
                for ((outcome, expected), request) in outcomes.iter().zip(&expected).zip(&asking) {
                    prop_assert_eq!(essence(outcome), essence(expected), "{:?}", request);
                    let logprobs = match request.logprobs {
                        Some(top) => of_logits(&model, &request.prompt, &outcome.tokens, top),
                        None => Vec::new(),
                    };
                    asked.set(asked.get() + logprobs.len());
                    prop_assert_eq!(&outcome.logprobs, &logprobs, "{:?}", request);
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(
        right.get() > 50 && asked.get() > 500,
        "{} of {}",
        right.get(),
        asked.get()
    );
}

#[test]
fn a_token_that_ends_the_text_has_none() {
    let mut ending = request(&[1, 2], 20);
    ending.logprobs = Some(0);
    let engine = start(testing::model(), 1, 1, 64);
    let whole = outcome(engine.submit(ending.clone()).unwrap());
    assert_eq!(whole.logprobs.len(), 20);
    ending.ignore_eos = false;
    let end = whole.tokens[5];
    let at = whole.tokens.iter().position(|&token| token == end).unwrap();
    let tokenizer = super::guesses::tokenizer_ending_with(end);
    let engine = start_with(tokenizer, Speculation::Always, testing::model(), 1, 1, 64);
    let outcome = outcome(engine.submit(ending).unwrap());
    assert_eq!(
        (outcome.reason(), &outcome.logprobs[..]),
        (FinishReason::Eos, &whole.logprobs[..at])
    );
}
